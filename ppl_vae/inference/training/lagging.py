"""Aggressive training of the guide while it lags behind the model."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from pyro.infer.elbo import ELBO as PyroELBO
from torch import Tensor, nn

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.draws import Draws, Program, Site, draw
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective, PyroObjective
from ppl_vae.inference.objectives.parts.path_gradients import Paths
from ppl_vae.models.base import Model, evaluating
from ppl_vae.shared.checks import sample_once
from ppl_vae.shared.evaluation.elbo_surgery import elbo_surgery
from ppl_vae.shared.objectives.lagging import (
    check_lagging,
    check_wrapped,
    only_guide,
    still_lagging,
)
from ppl_vae.shared.training.turns import Turn

OF_GUIDE, OF_MODEL = "guide", "model"


class Lagging(Objective):
    """An objective with aggressive training of the guide in the first epochs.

    While the guide lags behind the model, `fit` repeats for each batch of an epoch

        repeat                                                                            (1)
            update the guide's parameters, on a randomly chosen batch
        until the mean loss of `window` steps is not below that of the previous `window` steps,
            or `max_steps` steps were taken
        update the model's parameters, on the batch of the epoch                          (2)

    so that the model is trained with a bound that is as tight as the guide allows, and does not
    learn to ignore z. After each epoch the mutual information I(x; z) is measured by
    `elbo_surgery`, with the same random numbers each time. The phase ends for good when I has been
    below its maximum for `patience` epochs; from then on each batch is one step of all parameters.

    Each parameter belongs to one group. The guide's parameters are those that log q(z | x) depends
    on at given draws z and log p(x, z) does not, determined by their gradients. All others are the
    model's: a network that both share (`LadderVAE`) is updated in (2) only. The objective's own
    networks (baselines) belong to the guide. Moments and step count of a parameter in the
    optimizer are those of the steps that updated it. The objective's state advances with every
    step, (1) and (2).

    `fit` reports two more numbers: "lagging", the number of further epochs without an increase
    after which the phase ends, 0 afterwards; and "mutual_information", the maximum so far in nats.
    The loss of an epoch is the mean over its steps (2). Validation and `mean_loss` evaluate the
    wrapped objective.

    References:
        He, Spokoyny, Neubig & Berg-Kirkpatrick, "Lagging inference networks and posterior collapse
        in variational autoencoders", ICLR 2019, arXiv:1901.05534; the numbers of (1) are
        those of the authors' code.

    Differs from the paper:
        I(x; z) is measured on the first data of the training set (the paper: a validation set).
        The batches of (1) are chosen from those of a second random order of the data, which is
        drawn in each epoch.
        Adam without gradient clipping, with the learning rate of `fit`.

    Args:
        objective: The objective to minimise: a ppl_vae objective or a `pyro.infer.ELBO`; by default
            `ELBO()`.
        max_steps: Maximum number of steps (1) for a batch.
        window: Number of steps over which losses are averaged, at most half of `max_steps`.
        patience: Number of epochs without an increase of I(x; z) that end the phase (the authors'
            code: 1 for text, 5 for images).
        subset: Number of data for the measurement of I(x; z), the first ones; the result is at most
            the log of this number.

    Raises:
        ValueError: An argument is invalid; (when used) the guide has no parameters of its own,
            `elbo_surgery` refuses the pair, for example because its prior depends on the datum, or
            Pyro's SVI is used, which updates all parameters together.
    """

    def __init__(
        self,
        objective: PyroELBO | None = None,
        max_steps: int = 100,
        window: int = 10,
        patience: int = 1,
        subset: int = 500,
    ) -> None:
        check_wrapped(objective)
        check_lagging(max_steps, window, patience, subset)
        inner = ELBO() if objective is None else objective
        wrapped = inner if isinstance(inner, Objective) else PyroObjective(inner)
        super().__init__(wrapped.k, max_plate_nesting=wrapped.max_plate_nesting)
        self.num_particles = wrapped.num_particles
        self.objective = wrapped
        self.max_steps, self.window = max_steps, window
        self.patience, self.subset = patience, subset
        self.of_guide: tuple[str, ...] = ()
        self._state = self.state()

    def prepare(self, model: Any, *data: Any) -> Self:
        prepared = self._with_objective(self.objective.prepare(model, *data))
        subset = self._subset(data)
        prepared.of_guide = tuple(guide_parameters(model, *subset, nesting=self.max_plate_nesting))
        self._mutual_information(model, subset)  # raises its errors before training
        return prepared

    def group_of(self, parameter: str) -> str:
        of_network = parameter.startswith("network:")
        return OF_GUIDE if of_network or parameter in self.of_guide else OF_MODEL

    def turns(self) -> tuple[Turn, ...]:
        if self._state["lagging"] > 0:
            return Turn(OF_GUIDE, self.max_steps, self.window), Turn(OF_MODEL)
        return (Turn(),)

    def after_epoch(self, model: Any, *data: Any) -> dict[str, Tensor]:
        left, best = (self._state[name].item() for name in ("lagging", "mutual_information"))
        if left == 0:
            return {}
        information = self._mutual_information(model, self._subset(data))
        left, best = still_lagging(left, best, information)
        numbers = {"lagging": left, "mutual_information": best}
        return {name: torch.tensor(value) for name, value in numbers.items()}

    def _subset(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part[: self.subset] for part in data)

    def _mutual_information(self, model: Any, data: tuple[Any, ...]) -> float:
        surgery = elbo_surgery(model, data, max_plate_nesting=self.max_plate_nesting)
        return float(surgery.mutual_information.values.mean())

    def _with_objective(self, objective: Objective) -> Self:
        changed = copy.copy(self)
        changed.objective = objective
        return changed

    def sums(self, *data: Any) -> Iterator[tuple[float, Objective, Sequence[Any]]]:
        for weight, part, rows in self.objective.sums(*data):
            yield weight, self._with_objective(part), rows

    def check(self, model: Any, *data: Any) -> None:
        self.objective.check(model, *data)

    def networks(self) -> dict[str, nn.Module]:
        return self.objective.networks()

    def state(self) -> dict[str, Tensor]:
        """Return the wrapped objective's state, "lagging" and "mutual_information"."""
        numbers = {"lagging": float(self.patience), "mutual_information": -math.inf}
        tensors = {name: torch.tensor(value) for name, value in numbers.items()}
        return {**self.objective.state(), **tensors}

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        of_objective = {name: state[name] for name in self.objective.state()}
        changed = super().with_state(state)
        changed.objective = self.objective.with_state(of_objective)
        return changed

    def at(self, epoch: int) -> Self:
        return self._with_objective(self.objective.at(epoch))

    def for_evaluation(self) -> Any:
        return self.objective.for_evaluation()

    def batches(self, batch_size: int, generator: torch.Generator, *data: Any) -> Iterator[Tensor]:
        return self.objective.batches(batch_size, generator, *data)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        return self.objective.differentiable_loss(model, guide, *data, **kwargs)

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, state = self.objective.loss_and_state(model, guide, *data, **kwargs)
        return loss, {**self._state, **state}

    def loss_and_grads(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> float:
        raise ValueError(
            "Lagging should be trained by ppl_vae.inference.fit, which updates the parameters of "
            "guide and model in turn, was called by pyro.infer.SVI, which cannot"
        )


def guide_parameters(model: Model, *data: Any, nesting: int = 1) -> list[str]:
    """Return the names of the trained parameters that log q(z | x) alone depends on.

    log p(x, z) does not depend on them.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The arguments of `model.model`.
        nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: There are none.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batches = Batches(sample_once(data, 0), model.device, next(model.parameters()).dtype)
    batch = batches[torch.arange(len(batches))]
    with evaluating(model), random_state.isolated(0, model.device), torch.enable_grad(), Paths():
        draws: Draws = draw(model.model, model.guide, *batch, max_plate_nesting=nesting)
    latents = [site for site in draws.guide.values() if not site.observed]
    return only_guide(
        _dependencies(latents, named), _dependencies(list(draws.model.values()), named)
    )


def _dependencies(sites: list[Site], named: Mapping[str, nn.Parameter]) -> list[str]:
    """Return the names of the parameters that the log densities of these sites depend on."""
    total = sum((site.log_prob.sum() for site in sites), start=torch.zeros(()))
    if not total.requires_grad:
        return []
    settings: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    grads = torch.autograd.grad(total, list(named.values()), **settings)
    return [name for name, grad in zip(named, grads, strict=True) if grad is not None]
