"""See `ppl_vae.inference.objectives.parts.multi_sample`."""

from abc import abstractmethod
from typing import Any

from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws, Program, draw
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.numpyro.inference.objectives.parts.log_weights import (
    check_per_datum,
    latents,
    log_weights,
    scale_of,
)
from ppl_vae.shared.checks import check_whole


class MultiSample(Objective):
    """See `ppl_vae.inference.objectives.parts.multi_sample.MultiSample`."""

    def __init__(self, k: int, *, groups: int = 1, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_whole("groups", groups, 1)
        self.groups = groups
        self.num_particles = groups * k

    @abstractmethod
    def bound(self, log_w: Array) -> Array:
        """The bound of each datum, (..., N), from log weights of shape (..., K, N)."""

    def signal(self, bound: Array, log_w: Array) -> Array:
        return bound[..., None, :]

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        settings = {"max_plate_nesting": self.max_plate_nesting, "key": key, **kwargs}
        draws = draw(model, guide, *data, k=self.num_particles, **settings)
        check_per_datum(draws)
        return self.loss_of(draws)

    def loss_of(self, draws: Draws) -> Array:
        log_w = self._grouped(log_weights(draws))
        bound = self.bound(log_w)
        scored = [site.log_prob for site in latents(draws) if site.needs_score_function]
        if scored:
            score = self._grouped(sum(scored[1:], start=scored[0]))
            signal = self.signal(lax.stop_gradient(bound), lax.stop_gradient(log_w))
            bound = bound + (signal * (score - lax.stop_gradient(score))).sum(-2)
        return -(scale_of(draws) * bound.mean(0)).sum()

    def _grouped(self, value: Array) -> Array:
        return value.reshape(self.groups, self.k, -1)
