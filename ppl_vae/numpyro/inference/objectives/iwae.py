"""Importance weighted bounds, as `ppl_vae.inference.objectives.iwae`."""

import math

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from ppl_vae.numpyro.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.shared.checks import check_fraction, check_whole


class IWAE(MultiSample):
    """Minus the importance weighted bound, as `ppl_vae.inference.IWAE`.

    Args:
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) a site lies outside the data plate or is enumerated by the guide,
            sites differ in their scale, or there is no latent site.
    """

    def bound(self, log_w: Array) -> Array:
        return log_mean_exp(log_w)


class MIWAE(MultiSample):
    """Minus the mean of m importance weighted bounds, as `ppl_vae.inference.MIWAE`.

    Args:
        m: Number of bounds.
        k: Number of particles of each.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) as `IWAE`.
    """

    def __init__(self, m: int, k: int, *, max_plate_nesting: int = 1) -> None:
        check_whole("m", m, 1)
        super().__init__(k, groups=m, max_plate_nesting=max_plate_nesting)
        self.m = m

    def bound(self, log_w: Array) -> Array:
        return log_mean_exp(log_w)


class CIWAE(MultiSample):
    """Minus beta ELBO + (1 - beta) L_K, as `ppl_vae.inference.CIWAE`.

    Args:
        beta: Weight of the ELBO, in [0, 1].
        k: Number of particles.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) as `IWAE`.
    """

    def __init__(self, beta: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_fraction("beta", beta)
        self.beta = beta

    def bound(self, log_w: Array) -> Array:
        return self.beta * log_w.mean(-2) + (1 - self.beta) * log_mean_exp(log_w)


def log_mean_exp(log_w: Array) -> Array:
    """log 1/K sum_i exp(log_w_i) over dimension -2: (..., K, N) -> (..., N)."""
    return jnp.asarray(logsumexp(log_w, axis=-2)) - math.log(log_w.shape[-2])
