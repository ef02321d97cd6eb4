"""Aggressive training of the guide, while it lags behind the model."""

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
from ppl_vae.inference.evaluation.diagnostics import elbo_surgery
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective, PyroObjective
from ppl_vae.inference.objectives.parts.path_gradients import Paths
from ppl_vae.models.base import Model, evaluating
from ppl_vae.shared.checks import sample_once
from ppl_vae.shared.objectives.lagging import (
    check_lagging,
    check_wrapped,
    only_guide,
    still_lagging,
)
from ppl_vae.shared.training.turns import Turn

OF_GUIDE, OF_MODEL = "guide", "model"


class Lagging(Objective):
    """An objective by which the guide's parameters are trained aggressively at first.

    While the guide lags behind, `fit` does for each batch of an epoch

        repeat                                                                            (1)
            a step of the guide's parameters, on a batch that is chosen at random
        until the mean loss of `window` steps is not below that of the `window` steps before them,
            or `max_steps` steps were taken
        a step of the model's parameters, on the batch of the epoch                       (2)

    so that the model is trained by a bound that is as tight as the guide allows, and does not learn
    to do without z. After each epoch the mutual information I(x; z) of `elbo_surgery` is measured,
    with the same random numbers each time. When it no longer climbs (in `patience` epochs it was
    below the largest before) the phase is over for good, and each batch is one step of all
    parameters together, an ordinary step.

    Of a parameter only one of the two groups is: the guide's are those that log q(z | x) depends on
    at given draws z and log p(x, z) does not, found by their gradients; the model's are all others,
    so that a network which both share (`LadderVAE`) moves in (2) alone. The objective's own
    networks (baselines) go with the guide. Each parameter has Adam's moments, and its count of
    steps, of the steps that it was part of. Numbers of the objective's `state` advance with every
    step, (1) and (2).

    `fit` reports two numbers more: "lagging", how many more epochs without a climb the phase would
    last, 0 when it is over; and "mutual_information", the largest so far, in nats. The loss of an
    epoch is the mean over its steps (2). In validation and `mean_loss` the objective is measured.

    References:
        He, Spokoyny, Neubig & Berg-Kirkpatrick, "Lagging inference networks and posterior collapse
        in variational autoencoders", ICLR 2019, arXiv:1901.05534; the numbers of (1) are
        those of the authors' code.

    Differs from the paper:
        I(x; z) is that of the first data of the training set (the paper: a validation set).
        Batches of (1) are chosen among those of another random order of the data, which is made for
        each epoch.
        Adam without clipping of gradients, with the step size of `fit`.

    Args:
        objective: What is minimised: a ppl_vae objective or a `pyro.infer.ELBO`; by default
            `ELBO()`.
        max_steps: The largest number of steps (1) for a batch.
        window: Number of steps whose losses are averaged, at most half of `max_steps`.
        patience: Number of epochs without a climb that end the phase (the authors' code: 1 for
            text, 5 for images).
        subset: Number of data of which I(x; z) is measured, the first ones; it is at most the log
            of that number.

    Raises:
        ValueError: an argument is not such; (when used) the guide has no parameters of its own, the
            prior depends on the datum or what else `elbo_surgery` refuses, or it is used in Pyro's
            SVI, which steps all parameters together.
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
        given = ELBO() if objective is None else objective
        wrapped = given if isinstance(given, Objective) else PyroObjective(given)
        super().__init__(wrapped.k, max_plate_nesting=wrapped.max_plate_nesting)
        self.num_particles = wrapped.num_particles
        self.objective = wrapped
        self.max_steps, self.window, self.patience, self.subset = (
            max_steps,
            window,
            patience,
            subset,
        )
        self.of_guide: tuple[str, ...] = ()
        self._state = self.state()

    def prepare(self, model: Any, *data: Any) -> Self:
        prepared = self._around(self.objective.prepare(model, *data))
        some = self._some(data)
        prepared.of_guide = tuple(guide_parameters(model, *some, nesting=self.max_plate_nesting))
        self._mutual_information(model, some)  # refused before training, or never
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
        found = self._mutual_information(model, self._some(data))
        left, best = still_lagging(left, best, found)
        numbers = {"lagging": left, "mutual_information": best}
        return {name: torch.tensor(value) for name, value in numbers.items()}

    def _some(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part[: self.subset] for part in data)

    def _mutual_information(self, model: Any, data: tuple[Any, ...]) -> float:
        found = elbo_surgery(model, data, max_plate_nesting=self.max_plate_nesting)
        return float(found.mutual_information.values.mean())

    def _around(self, objective: Objective) -> Self:
        changed = copy.copy(self)
        changed.objective = objective
        return changed

    def sums(self, *data: Any) -> Iterator[tuple[float, Objective, Sequence[Any]]]:
        for weight, part, rows in self.objective.sums(*data):
            yield weight, self._around(part), rows

    def check(self, model: Any, *data: Any) -> None:
        self.objective.check(model, *data)

    def networks(self) -> dict[str, nn.Module]:
        return self.objective.networks()

    def state(self) -> dict[str, Tensor]:
        """The objective's, how many epochs without a climb end the phase, and the largest I."""
        numbers = {"lagging": float(self.patience), "mutual_information": -math.inf}
        own = {name: torch.tensor(value) for name, value in numbers.items()}
        return {**self.objective.state(), **own}

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        of_objective = {name: state[name] for name in self.objective.state()}
        changed = super().with_state(state)
        changed.objective = self.objective.with_state(of_objective)
        return changed

    def at(self, epoch: int) -> Self:
        return self._around(self.objective.at(epoch))

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
            "Lagging should be trained by ppl_vae.inference.fit, which steps the parameters of "
            "guide and model in turn, was called by pyro.infer.SVI, which cannot"
        )


def guide_parameters(model: Model, *data: Any, nesting: int = 1) -> list[str]:
    """Names of the trained parameters that log q(z | x) depends on and log p(x, z) does not.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: Some data, the arguments of `model.model`.
        nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: there are none.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batches = Batches(sample_once(data, 0), model.device, next(model.parameters()).dtype)
    batch = batches[torch.arange(len(batches))]
    with evaluating(model), random_state.isolated(0, model.device), torch.enable_grad(), Paths():
        draws: Draws = draw(model.model, model.guide, *batch, max_plate_nesting=nesting)
    latents = [site for site in draws.guide.values() if not site.observed]
    return only_guide(_reached(latents, named), _reached(list(draws.model.values()), named))


def _reached(sites: list[Site], named: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of the parameters that the log densities of these sites depend on."""
    total = sum((site.log_prob.sum() for site in sites), start=torch.zeros(()))
    if not total.requires_grad:
        return []
    settings: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    grads = torch.autograd.grad(total, list(named.values()), **settings)
    return [name for name, grad in zip(named, grads, strict=True) if grad is not None]
