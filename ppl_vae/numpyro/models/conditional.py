"""See `ppl_vae.models.conditional`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.shared.checks import as_numpy, check_condition, check_whole
from ppl_vae.shared.model_checks import ConditionChecks


class ConditionalModel(ConditionChecks, Model):
    """See `ppl_vae.models.ConditionalModel`."""

    x_dim: int = eqx.field(static=True)
    c_dim: int = eqx.field(static=True)

    def vectors(self, c: Array) -> Array:
        """See `ppl_vae.models.ConditionalModel.vectors`."""
        if jnp.issubdtype(c.dtype, jnp.floating):
            return c
        return jax.nn.one_hot(c, self.c_dim)

    def observe(self, p: Any, x: Array, mask: Array | None) -> None:
        """See `ppl_vae.models.ConditionalModel.observe`."""
        if mask is not None:
            p = p.base_dist.mask(mask.astype(bool)).to_event(1)
        numpyro.sample("x", p, obs=x)

    def zero_outside_mask(self, x: Array, mask: Array | None) -> Array:
        """See `ppl_vae.models.ConditionalModel.zero_outside_mask`."""
        return x if mask is None else jnp.where(mask.astype(bool), x, 0.0)

    def blank(self, n: int) -> tuple[Array, ...]:
        return jnp.zeros((n, self.c_dim)), jnp.zeros((n, self.x_dim))

    def sample(self, n: int, c: Any = None, *, key: Array) -> dict[str, Array]:
        """See `ppl_vae.models.ConditionalModel.sample`; takes a keyword-only `key`."""
        check_whole("n", n, 1)
        if c is None:
            return super().sample(n, key=key)
        check_condition("c", c, self.c_dim)
        if len(c) != n:
            raise ValueError(f"c should be {n} conditions, one for each draw, had {len(c)}")
        return self.simulate(jnp.asarray(as_numpy(c)), self.blank(n)[1], key=key)
