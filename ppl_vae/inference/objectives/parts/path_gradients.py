"""Pathwise gradients, separated from the gradients of the densities at fixed draws."""

from abc import abstractmethod
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.inference.draws import Draws, Program, draw
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.log_weights import check_per_datum, log_weights, scale_of


class Paths(Messenger):
    """A context for `draw` that detaches the guide's reparametrised draws from their parameters.

    Log densities then depend on the detached draws z' and directly on parameters: gradients by z'
    exclude the direct dependence on parameters, and gradients by parameters exclude the path
    z = g(noise, parameters). With several latent sites the path of one site goes through the
    density and the draw of the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, Tensor] = {}
        self.cut: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        enumerated = "_enumerate_dim" in (msg["infer"] or {})
        if msg["is_observed"] or enumerated or not getattr(msg["fn"], "has_rsample", False):
            return
        if msg["name"] not in self.drawn:  # the model has the guide's draws
            self.drawn[msg["name"]] = msg["value"]
            msg["value"] = self.cut[msg["name"]] = msg["value"].detach().requires_grad_()

    def along(self, target: Tensor) -> Tensor:
        """Return 0 with the pathwise gradient of `target`, a scalar."""
        drawn, cut = list(self.drawn.values()), list(self.cut.values())
        if not cut:
            return torch.zeros_like(target)
        settings: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
        grads = list(torch.autograd.grad(target, cut, **settings))
        for i in range(len(cut) - 1, 0, -1):  # backwards, as a site depends on those before it
            if drawn[i].requires_grad:
                through = torch.autograd.grad(drawn[i], cut[:i], grads[i], **settings)
                grads[:i] = [a + b for a, b in zip(grads, through, strict=False)]
        pairs = zip(grads, drawn, strict=True)
        terms = [(grad * (value - value.detach())).sum() for grad, value in pairs]
        return torch.stack(terms).sum()


class PathObjective(Objective):
    """Multi-sample loss for each datum, with separate value and gradient estimators.

    Scales, sites that only the model enumerates, and what is refused are as in `MultiSample`.

    Args:
        k: Number of particles.
        max_plate_nesting: Number of plate dimensions of the programs.
    """

    def __init__(self, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)

    def check_draws(self, draws: Draws) -> None:
        """Raises a ValueError that says for what sites there is no such loss."""
        check_per_datum(draws)

    @abstractmethod
    def value(self, log_w: Tensor) -> Tensor:
        """The loss of each datum, (N,), from log weights of shape (K, N)."""

    @abstractmethod
    def surrogate(self, draws: Draws, log_w: Tensor, scale: Tensor, paths: Paths) -> Tensor:
        """A number whose gradient is that of the loss of all data."""

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        with Paths() as paths:
            settings = {"max_plate_nesting": self.max_plate_nesting, **kwargs}
            draws = draw(model, guide, *data, k=self.num_particles, **settings)
        self.check_draws(draws)
        log_w, scale = log_weights(draws), scale_of(draws)
        value = (scale * self.value(log_w.detach())).sum()
        surrogate = self.surrogate(draws, log_w, scale, paths) if torch.is_grad_enabled() else value
        return value + (surrogate - surrogate.detach())
