"""See `ppl_vae.models.networks.priors`; the weights are not random, so `key` is optional."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from ppl_vae.numpyro.models.networks.layers import Network
from ppl_vae.shared.checks import check_whole


class StandardNormal(Network):
    """See `ppl_vae.models.StandardNormal`."""

    z_dim: int = eqx.field(static=True)

    def __init__(self, z_dim: int, *, key: Array | None = None) -> None:
        check_whole("z_dim", z_dim, 1)
        self.z_dim = z_dim

    def __call__(self) -> dist.Distribution:
        return dist.Normal(jnp.zeros(self.z_dim), 1.0).to_event(1)


class UniformCategorical(Network):
    """See `ppl_vae.models.UniformCategorical`."""

    n_classes: int = eqx.field(static=True)

    def __init__(self, n_classes: int, *, key: Array | None = None) -> None:
        check_whole("n_classes", n_classes, 2)
        self.n_classes = n_classes

    def __call__(self) -> dist.Distribution:
        return dist.Categorical(logits=jnp.zeros(self.n_classes))


class _Bernoulli(dist.BernoulliLogits):  # type: ignore[misc]
    """A Bernoulli distribution with the right gradient at a logit of exactly 0.

    NumPyro's own has a gradient of 0 or 1 there, where -1/2 or 1/2 is right.
    """

    def log_prob(self, value: Array) -> Array:
        log_p: Array = value * self.logits - jax.nn.softplus(self.logits)
        return log_p


class FactorisedBernoulli(Network):
    """See `ppl_vae.models.FactorisedBernoulli`."""

    logits: Array

    def __init__(self, z_dim: int, *, key: Array | None = None) -> None:
        check_whole("z_dim", z_dim, 1)
        self.logits = jnp.zeros(z_dim)

    def __call__(self) -> dist.Distribution:
        return _Bernoulli(self.logits).to_event(1)


class FactorisedCategorical(Network):
    """See `ppl_vae.models.FactorisedCategorical`."""

    logits: Array

    def __init__(self, z_dim: int, n_categories: int, *, key: Array | None = None) -> None:
        check_whole("z_dim", z_dim, 1)
        check_whole("n_categories", n_categories, 2)
        self.logits = jnp.zeros((z_dim, n_categories))

    def __call__(self) -> dist.Distribution:
        return dist.Categorical(logits=self.logits).to_event(1)
