"""See `ppl_vae.inference.objectives.vimco`."""

import math
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.objectives.iwae import IWAE
from ppl_vae.shared.checks import check_choice, check_whole

Mean: TypeAlias = Literal["geometric", "arithmetic"]


class VIMCO(IWAE):
    """See `ppl_vae.inference.VIMCO`."""

    def __init__(self, k: int, mean: Mean = "geometric", *, max_plate_nesting: int = 1) -> None:
        check_whole("k", k, 2)
        check_choice("mean", mean, get_args(Mean))
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.mean = mean

    def signal(self, bound: Array, log_w: Array) -> Array:
        sum_of_others = jnp.logaddexp(*_before_and_after(log_w, lax.cumlogsumexp, -math.inf))
        if self.mean == "arithmetic":  # (S + S / (K - 1)) / K = S / (K - 1)
            return bound[..., None, :] - (sum_of_others - math.log(self.k - 1))
        before, after = _before_and_after(log_w, lax.cumsum, 0.0)
        mean = (before + after) / (self.k - 1)
        baseline = jnp.logaddexp(sum_of_others, mean) - math.log(self.k)
        return bound[..., None, :] - baseline


def _before_and_after(log_w: Array, accumulate: Any, empty: float) -> tuple[Array, Array]:
    axis = log_w.ndim - 2
    before = accumulate(log_w[..., :-1, :], axis=axis)
    after = accumulate(log_w[..., 1:, :], axis=axis, reverse=True)
    widths = [(0, 0)] * axis
    return (
        jnp.pad(before, [*widths, (1, 0), (0, 0)], constant_values=empty),
        jnp.pad(after, [*widths, (0, 1), (0, 0)], constant_values=empty),
    )
