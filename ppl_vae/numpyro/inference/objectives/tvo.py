"""See `ppl_vae.inference.objectives.tvo`."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws
from ppl_vae.numpyro.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.checks import check_choice, check_whole
from ppl_vae.shared.objectives.partitions import edges_of

Bound: TypeAlias = Literal["lower", "upper"]


class TVO(PathObjective):
    """See `ppl_vae.inference.TVO`."""

    def __init__(
        self,
        k: int,
        partitions: int | Sequence[float] = 2,
        bound: Bound = "lower",
        *,
        max_plate_nesting: int = 1,
    ) -> None:
        check_whole("k", k, 2)
        check_choice("bound", bound, get_args(Bound))
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.partitions, self.bound = edges_of(partitions), bound

    def value(self, log_w: Array) -> Array:
        _, width, share = self._tempered_weights(log_w)
        bound = (width * share * log_w).sum((0, 1))
        return bound if self.bound == "upper" else -bound

    def surrogate(self, draws: Draws, log_w: Array, scale: Array, paths: Paths) -> Array:
        numbers, log_q = lax.stop_gradient(log_w), paths.log_q
        beta, width, share = self._tempered_weights(numbers)
        mean = (share * numbers).sum(1, keepdims=True)
        covariance = self.k / (self.k - 1) * share * (numbers - mean)
        # log pi_beta is log q + beta log w, but for a constant.
        of_weight = (width * (share + beta * covariance)).sum(0)
        of_guide = (width * covariance).sum(0)
        if self.bound == "upper":  # d log w = -d log q
            return (scale * (of_guide - of_weight) * log_q).sum()
        return -(scale * (of_weight * log_w + of_guide * log_q)).sum()

    def _tempered_weights(self, log_w: Array) -> tuple[Array, Array, Array]:
        edges = jnp.asarray(self.partitions, log_w.dtype)[:, None, None]
        beta = edges[1:] if self.bound == "upper" else edges[:-1]
        # Compiled, a product and a difference are one operation: they are not rounded alike.
        share = jax.nn.softmax(beta * (log_w - log_w.max(0)), axis=1)
        return beta, jnp.diff(edges, axis=0), share
