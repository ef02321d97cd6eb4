"""Distributions of latent variables that depend on nothing, as `ppl_vae.models.priors`.

They have no parameters, so their `key` is not used and may be left out.
"""

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from ppl_vae.checks import check_whole
from ppl_vae.numpyro.models.nets import Network


class StandardNormal(Network):
    """N(0, I) over z_dim dimensions."""

    z_dim: int = eqx.field(static=True)

    def __init__(self, z_dim: int, *, key: Array | None = None) -> None:
        check_whole("z_dim", z_dim, 1)
        self.z_dim = z_dim

    def __call__(self) -> dist.Distribution:
        return dist.Normal(jnp.zeros(self.z_dim), 1.0).to_event(1)


class UniformCategorical(Network):
    """p(y) = 1 / n_classes for y = 0, ..., n_classes - 1."""

    n_classes: int = eqx.field(static=True)

    def __init__(self, n_classes: int, *, key: Array | None = None) -> None:
        check_whole("n_classes", n_classes, 2)
        self.n_classes = n_classes

    def __call__(self) -> dist.Distribution:
        return dist.Categorical(logits=jnp.zeros(self.n_classes))
