"""See `ppl_vae.models.distributions.normal`."""

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.kl import kl_divergence


class LogVarNormal(dist.Normal):  # type: ignore[misc]
    """See `ppl_vae.models.distributions.normal.LogVarNormal`."""

    pytree_data_fields = ("log_var",)

    def __init__(self, loc: Array, log_var: Array, *, validate_args: bool | None = None) -> None:
        self.log_var = log_var
        super().__init__(loc, jnp.exp(0.5 * log_var), validate_args=validate_args)

    def log_prob(self, value: Array) -> Array:
        if self._validate_args:
            self._validate_sample(value)
        residual = (value - self.loc) * jnp.exp(-0.5 * self.log_var)
        log_prob: Array = -0.5 * (residual**2 + self.log_var + math.log(2 * math.pi))
        return log_prob


def log_var_of(normal: dist.Normal) -> Array:
    """See `ppl_vae.models.distributions.normal.log_var_of`."""
    return normal.log_var if isinstance(normal, LogVarNormal) else 2 * jnp.log(normal.scale)


@kl_divergence.register(LogVarNormal, dist.Normal)  # type: ignore[untyped-decorator]
def _kl_normal_normal(q: LogVarNormal, p: dist.Normal) -> Array:
    """See `ppl_vae.models.distributions.normal._kl_normal_normal`."""
    log_var = log_var_of(p)
    residual = (q.loc - p.loc) * jnp.exp(-0.5 * log_var)
    log_ratio = q.log_var - log_var
    kl: Array = 0.5 * (jnp.exp(log_ratio) + residual**2 - 1 - log_ratio)
    return kl
