"""What models of x given a condition c share, as `ppl_vae.models.conditional`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.shared.checks import (
    as_numpy,
    check_arguments,
    check_condition,
    check_mask,
    check_matrix,
    check_whole,
)


class ConditionalModel(Model):
    """A model of targets x given c, as `ppl_vae.models.ConditionalModel`."""

    x_dim: int = eqx.field(static=True)
    c_dim: int = eqx.field(static=True)

    def vectors(self, c: Array) -> Array:
        """c as vectors, shape (n, c_dim): classes as one-hot ones."""
        if jnp.issubdtype(c.dtype, jnp.floating):
            return c
        return jax.nn.one_hot(c, self.c_dim)

    def observe(self, p: Any, x: Array, mask: Array | None) -> None:
        """The site "x" with the distribution p: its log p sums over the entries that count."""
        if mask is not None:
            p = p.base_dist.mask(mask.astype(bool)).to_event(1)
        numpyro.sample("x", p, obs=x)

    def counted(self, x: Array, mask: Array | None) -> Array:
        """x with zeros in the place of entries that do not count, for the guide to see."""
        return x if mask is None else jnp.where(mask.astype(bool), x, 0.0)

    def check_conditioned(self, network: Any, *data: Any) -> None:
        """Raises a ValueError unless `data` are what `network`, which gives p, is trained on."""
        check_arguments(data, ("c", "x"), ("c", "x", "mask"))
        check_condition("c", data[0], self.c_dim)
        check_matrix("x", data[1], self.x_dim, *self.support(network))
        for mask in data[2:]:
            check_mask("mask", mask, self.x_dim)

    def blank(self, n: int) -> tuple[Array, ...]:
        return jnp.zeros((n, self.c_dim)), jnp.zeros((n, self.x_dim))

    def sample(self, n: int, c: Any = None, *, key: Array) -> dict[str, Array]:
        """n draws of every site of the model, one for each condition: site -> (n, ...).

        Args:
            n: Number of draws.
            c: The conditions, n of them (repeat one to draw often); by default vectors of zeros.
            key: Random key of the draws.
        """
        check_whole("n", n, 1)
        if c is None:
            return super().sample(n, key=key)
        check_condition("c", c, self.c_dim)
        if len(c) != n:
            raise ValueError(f"c should be {n} conditions, one for each draw, had {len(c)}")
        return self.simulate(jnp.asarray(as_numpy(c)), self.blank(n)[1], key=key)
