"""See `ppl_vae.models.networks.conditionals`.

Equinox modules serve as containers of arrays with torch's names, layouts and initialisation.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from ppl_vae.numpyro.models.distributions.normal import LogVarNormal
from ppl_vae.numpyro.models.networks.layers import MLP, Linear, Network
from ppl_vae.shared.checks import as_numpy, check_whole

Conditional: TypeAlias = Callable[..., dist.Distribution]
"""A network: called with values, it gives a distribution."""

LARGEST_LOG_VAR = 80.0


class DiagNormalNet(Network):
    """N(loc(h), diag exp(log_var(h))), as `ppl_vae.models.DiagNormalNet`."""

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    trunk: MLP
    loc: Linear
    log_var: Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        batch_norm: bool = False,
        *,
        key: Array,
    ) -> None:
        check_whole("out_dim", out_dim, 1)
        for_trunk, for_loc, for_log_var = jax.random.split(key, 3)
        self.trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm, key=for_trunk)
        self.loc = Linear(self.trunk.out_dim, out_dim, key=for_loc)
        self.log_var = Linear(self.trunk.out_dim, out_dim, key=for_log_var)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        return self.head(self.trunk(*inputs))

    def head(self, h: Array) -> dist.Distribution:
        """The distribution given h, the output of the trunk."""
        log_var = jnp.clip(self.log_var(h), -LARGEST_LOG_VAR, LARGEST_LOG_VAR)
        return LogVarNormal(self.loc(h), log_var).to_event(1)


class BernoulliNet(Network):
    """prod_d Bernoulli(x_d | sigmoid(logits_d(h))), as `ppl_vae.models.BernoulliNet`."""

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    trunk: MLP
    logits: Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        batch_norm: bool = False,
        *,
        key: Array,
    ) -> None:
        check_whole("out_dim", out_dim, 1)
        for_trunk, for_logits = jax.random.split(key)
        self.trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm, key=for_trunk)
        self.logits = Linear(self.trunk.out_dim, out_dim, key=for_logits)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        # Models check that pixels lie in `support`; numpyro's own check would refuse grey levels.
        logits = self.logits(self.trunk(*inputs))
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def start_at(self, mean: Any) -> Self:
        """This network with an output bias of logit(mean), mean cut to [0.001, 0.999].

        Args:
            mean: Of the data, shape (out_dim,).
        """
        old = self.logits.bias
        assert old is not None
        values = jnp.asarray(as_numpy(mean), old.dtype)
        if values.shape != old.shape:
            raise ValueError(f"mean should have shape {old.shape}, had {values.shape}")
        bias = jax.scipy.special.logit(jnp.clip(values, 0.001, 0.999))
        changed: Self = eqx.tree_at(lambda network: network.logits.bias, self, bias)
        return changed


class CategoricalNet(Network):
    """Categorical(softmax(logits(h))), as `ppl_vae.models.CategoricalNet`."""

    trunk: MLP
    logits: Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        n_classes: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        dropout: tuple[float, float] = (0.0, 0.0),
        batch_norm: bool = False,
        *,
        key: Array,
    ) -> None:
        check_whole("n_classes", n_classes, 2)
        for_trunk, for_logits = jax.random.split(key)
        self.trunk = MLP(in_dims, hidden, activation, dropout, batch_norm, key=for_trunk)
        self.logits = Linear(self.trunk.out_dim, n_classes, key=for_logits)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        return dist.Categorical(logits=self.logits(self.trunk(*inputs)))


class FactorisedCategoricalNet(Network):
    """prod_d Categorical(z_d | softmax(logits_d(h))), as the Pyro class of this name."""

    trunk: MLP
    logits: Linear
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        n_categories: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        *,
        key: Array,
    ) -> None:
        check_whole("out_dim", out_dim, 1)
        check_whole("n_categories", n_categories, 2)
        self.shape = (out_dim, n_categories)
        for_trunk, for_logits = jax.random.split(key)
        self.trunk = MLP(in_dims, hidden, activation, key=for_trunk)
        self.logits = Linear(self.trunk.out_dim, out_dim * n_categories, key=for_logits)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        logits = self.logits(self.trunk(*inputs))
        logits = logits.reshape(*logits.shape[:-1], *self.shape)
        return dist.Categorical(logits=logits).to_event(1)
