"""See `ppl_vae.models.networks.conditionals`."""

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
"""A network that is called with values and returns a distribution."""

LARGEST_LOG_VAR = 80.0
NO_DROPOUT = (0.0, 0.0)


class TrunkAndHeads(Network):
    """See `ppl_vae.models.networks.conditionals.TrunkAndHeads`."""

    trunk: MLP

    def _build(self, *trunk: Any, key: Array, **heads: int) -> None:
        """Set the trunk, `MLP(*trunk)`, and a linear head of each name and size."""
        for_trunk, *keys = jax.random.split(key, 1 + len(heads))
        self.trunk = MLP(*trunk, key=for_trunk)
        for (name, size), for_head in zip(heads.items(), keys, strict=True):
            setattr(self, name, Linear(self.trunk.out_dim, size, key=for_head))


class DiagNormalNet(TrunkAndHeads):
    """See `ppl_vae.models.DiagNormalNet`; takes a keyword-only `key`."""

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
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
        trunk = (in_dims, hidden, activation, NO_DROPOUT, batch_norm)
        self._build(*trunk, key=key, loc=out_dim, log_var=out_dim)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        return self.head(self.trunk(*inputs))

    def head(self, h: Array) -> dist.Distribution:
        """See `ppl_vae.models.DiagNormalNet.head`."""
        log_var = jnp.clip(self.log_var(h), -LARGEST_LOG_VAR, LARGEST_LOG_VAR)
        return LogVarNormal(self.loc(h), log_var).to_event(1)


class BernoulliNet(TrunkAndHeads):
    """See `ppl_vae.models.BernoulliNet`; takes a keyword-only `key`."""

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
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
        trunk = (in_dims, hidden, activation, NO_DROPOUT, batch_norm)
        self._build(*trunk, key=key, logits=out_dim)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        # Models check that pixels lie in `support`; numpyro's own check would refuse grey levels.
        logits = self.logits(self.trunk(*inputs))
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def start_at(self, mean: Any) -> Self:
        """See `ppl_vae.models.BernoulliNet.start_at`; returns a new network."""
        old = self.logits.bias
        assert old is not None
        values = jnp.asarray(as_numpy(mean), old.dtype)
        if values.shape != old.shape:
            raise ValueError(f"mean should have shape {old.shape}, had {values.shape}")
        bias = jax.scipy.special.logit(jnp.clip(values, 0.001, 0.999))
        changed: Self = eqx.tree_at(lambda network: network.logits.bias, self, bias)
        return changed


class CategoricalNet(TrunkAndHeads):
    """See `ppl_vae.models.CategoricalNet`; takes a keyword-only `key`."""

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
        trunk = (in_dims, hidden, activation, dropout, batch_norm)
        self._build(*trunk, key=key, logits=n_classes)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        return dist.Categorical(logits=self.logits(self.trunk(*inputs)))


class FactorisedCategoricalNet(TrunkAndHeads):
    """See `ppl_vae.models.FactorisedCategoricalNet`; takes a keyword-only `key`."""

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
        self._build(in_dims, hidden, activation, key=key, logits=out_dim * n_categories)

    def __call__(self, *inputs: Array) -> dist.Distribution:
        logits = self.logits(self.trunk(*inputs))
        logits = logits.reshape(*logits.shape[:-1], *self.shape)
        return dist.Categorical(logits=logits).to_event(1)
