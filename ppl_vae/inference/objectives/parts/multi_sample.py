"""Base class of multi-sample bounds."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from ppl_vae.inference.draws import Draws, Program, draw
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.log_weights import (
    check_per_datum,
    latents,
    log_weights,
    scale_of,
)
from ppl_vae.shared.checks import check_whole


class MultiSample(Objective):
    """Negative bound L(w_1, ..., w_K) of log p(x), w_i = p(x, z_i) / q(z_i | x), for each datum.

    The bound is computed per datum and then summed; a scale (subsampling, `poutine.scale`)
    multiplies the bound of a datum, not its log weights. Sites that only the model enumerates are
    summed out of each w_i. Latents are reparametrised where possible; others have score-function
    gradients, unbiased with a large variance:

        d L + sum_i s_i d log q(z_i | x),   with s_i = L                                   (1)

    References:
        Mnih & Rezende, "Variational inference for Monte Carlo objectives", 2016,
        arXiv:1602.06725, section 2 (1).

    Args:
        k: Number of particles K of a bound.
        groups: Number of bounds to average over.
        max_plate_nesting: Number of plate dimensions of the programs.
    """

    def __init__(self, k: int, *, groups: int = 1, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_whole("groups", groups, 1)
        self.groups = groups
        self.num_particles = groups * k

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """Compute the bound of each datum, (..., N), from log weights of shape (..., K, N)."""

    def signal(self, bound: Tensor, log_w: Tensor) -> Tensor:
        """Compute s_i, the factor of each particle's score, (..., K or 1, N), without gradients."""
        return bound.unsqueeze(-2)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        settings = {"max_plate_nesting": self.max_plate_nesting, **kwargs}
        draws = draw(model, guide, *data, k=self.num_particles, **settings)
        check_per_datum(draws)
        return self.loss_of(draws)

    def loss_of(self, draws: Draws) -> Tensor:
        """Compute the loss and its gradient from `num_particles` draws."""
        log_w = self._grouped(log_weights(draws))
        bound = self.bound(log_w)
        scored = [site.log_prob for site in latents(draws) if site.needs_score_function]
        if scored:
            score = self._grouped(sum(scored[1:], start=scored[0]))
            signal = self.signal(bound.detach(), log_w.detach())
            bound = bound + (signal * (score - score.detach())).sum(-2)  # (1)
        return -(scale_of(draws) * bound.mean(0)).sum()

    def _grouped(self, value: Tensor) -> Tensor:
        """Split the dimension of the particles: (groups * K, N) -> (groups, K, N)."""
        return value.reshape(self.groups, self.k, -1)
