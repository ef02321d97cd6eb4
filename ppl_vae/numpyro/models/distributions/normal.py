"""Distributions that hold at extremes, as those of `ppl_vae.models.distributions.normal`."""

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.kl import kl_divergence


class LogVarNormal(dist.Normal):  # type: ignore[misc]
    """N(loc, exp(log_var)) whose gradients do not overflow before its values, as the Pyro class.

    Args:
        loc: The mean.
        log_var: Log of the variance, broadcasts with loc.
    """

    pytree_data_fields = ("log_var",)

    def __init__(self, loc: Array, log_var: Array, *, validate_args: bool | None = None) -> None:
        self.log_var = log_var
        super().__init__(loc, jnp.exp(0.5 * log_var), validate_args=validate_args)

    def log_prob(self, value: Array) -> Array:
        if self._validate_args:
            self._validate_sample(value)
        away = (value - self.loc) * jnp.exp(-0.5 * self.log_var)
        log_prob: Array = -0.5 * (away**2 + self.log_var + math.log(2 * math.pi))
        return log_prob


def log_var_of(normal: dist.Normal) -> Array:
    """Log of the variance of any normal distribution."""
    return normal.log_var if isinstance(normal, LogVarNormal) else 2 * jnp.log(normal.scale)


@kl_divergence.register(LogVarNormal, dist.Normal)  # type: ignore[untyped-decorator]
def _kl_normal_normal(q: LogVarNormal, p: dist.Normal) -> Array:
    """Without a ratio of variances, of which there would be no logarithm where it is 0."""
    log_var = log_var_of(p)
    away = (q.loc - p.loc) * jnp.exp(-0.5 * log_var)
    less = q.log_var - log_var
    kl: Array = 0.5 * (jnp.exp(less) + away**2 - 1 - less)
    return kl
