"""See `ppl_vae.inference.objectives.iwae`."""

import math

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from ppl_vae.numpyro.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.shared.checks import check_fraction, check_whole


class IWAE(MultiSample):
    """See `ppl_vae.inference.IWAE`."""

    def bound(self, log_w: Array) -> Array:
        return log_mean_exp(log_w)


class MIWAE(MultiSample):
    """See `ppl_vae.inference.MIWAE`."""

    def __init__(self, m: int, k: int, *, max_plate_nesting: int = 1) -> None:
        check_whole("m", m, 1)
        super().__init__(k, groups=m, max_plate_nesting=max_plate_nesting)
        self.m = m

    def bound(self, log_w: Array) -> Array:
        return log_mean_exp(log_w)


class CIWAE(MultiSample):
    """See `ppl_vae.inference.CIWAE`."""

    def __init__(self, beta: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_fraction("beta", beta)
        self.beta = beta

    def bound(self, log_w: Array) -> Array:
        return self.beta * log_w.mean(-2) + (1 - self.beta) * log_mean_exp(log_w)


def log_mean_exp(log_w: Array) -> Array:
    """See `ppl_vae.inference.objectives.iwae.log_mean_exp`."""
    return jnp.asarray(logsumexp(log_w, axis=-2)) - math.log(log_w.shape[-2])
