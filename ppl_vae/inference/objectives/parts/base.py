"""What `fit`, Pyro's SVI and a user's own loop ask of an objective."""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from pyro.infer.elbo import ELBO as PyroELBO
from torch import Tensor, nn

from ppl_vae.inference.draws import Program
from ppl_vae.models.base import check_model
from ppl_vae.models.svi import register_parameters
from ppl_vae.shared.arguments import constructor_call
from ppl_vae.shared.checks import check_type, check_whole
from ppl_vae.shared.training.turns import Turn


class Objective(PyroELBO):
    """A loss of a model/guide pair, summed over the data of a batch.

    It is a `pyro.infer.ELBO`: `SVI(model, guide, optimizer, objective)` and
    `objective(model, guide)(*data)` work. A subclass defines `differentiable_loss`.

    Args:
        k: Number of particles, all drawn side by side.
        max_plate_nesting: Number of plate dimensions of the programs, see `draws.draw`.
    """

    def __init__(self, k: int = 1, *, max_plate_nesting: int = 1) -> None:
        check_whole("k", k, 1)
        check_whole("max_plate_nesting", max_plate_nesting, 1)
        settings = {"num_particles": k, "max_plate_nesting": max_plate_nesting}
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self.k = k
        self._state: Mapping[str, Tensor] = {}

    def __repr__(self) -> str:
        return constructor_call(self)

    @abstractmethod
    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        """The loss, a scalar whose gradient is an unbiased estimate of the objective's gradient."""

    def loss(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> float:
        """The loss as a number, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *data, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> float:
        """The loss as a number; its gradients are added to the parameters (what SVI calls).

        The numbers of `state` advance, and SVI is shown the parameters of `networks`.
        """
        for network in self.networks().values():
            register_parameters(network)
        loss, state = self.loss_and_state(model, guide, *data, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        self._state = state
        return loss.item()

    def check(self, model: Any, *data: Any) -> None:
        """Raises a ValueError that names what is wrong with `data`, the arguments of the loss."""
        check_model(model)
        model.check(*data)

    def prepare(self, model: Any, *data: Any) -> Self:
        """The objective for this data set, after a check of the data; called once, by `fit`.

        Raises:
            ValueError: the data are not what the model and the objective ask for.
        """
        self.check(model, *data)
        return self

    def networks(self) -> dict[str, nn.Module]:
        """The networks of the objective that are trained with the model, in place, by name.

        Most have none. `fit` and Pyro's SVI train them, and `fit` saves them in its checkpoints.
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """The numbers of the objective that training changes, as they are at first: name -> scalar.

        Most have none. `fit` keeps them, reports them after every epoch and saves them.
        """
        return {}

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """The objective with these numbers in the place of those of `state()`."""
        changed = copy.copy(self)
        changed._state = dict(state)
        return changed

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`differentiable_loss`, and the numbers for the step after this one; `fit` calls it."""
        return self.differentiable_loss(model, guide, *data, **kwargs), {}

    def sums(self, *data: Any) -> Iterator[tuple[float, "Objective", Sequence[Any]]]:
        """Split the loss of a batch into sums over data, which are divided among processes apart.

        Yields:
            The weight of a sum, the objective that computes it, and its data. The weighted losses
            add up to the loss of the batch.
        """
        yield 1.0, self, data

    def at(self, epoch: int) -> Self:
        """The objective in this epoch (the first is 1); `fit` calls it."""
        return self

    def group_of(self, parameter: str) -> str:
        """The group of a parameter of the model or the objective's networks, by its name."""
        return ""

    def turns(self) -> tuple[Turn, ...]:
        """What is stepped on the way through each batch, in this order; asked before each epoch."""
        return (Turn(),)

    def after_epoch(self, model: Any, *data: Any) -> dict[str, Tensor]:
        """Those numbers of `state` that an epoch changes at its end; `fit` calls it."""
        return {}

    def for_evaluation(self) -> Self:
        """What `mean_loss` and validation measure: without the weights that only training has."""
        return self

    def batches(self, batch_size: int, generator: torch.Generator, *data: Any) -> Iterator[Tensor]:
        """The indices of each batch of an epoch: a random order, cut into pieces."""
        return iter(torch.randperm(len(data[0]), generator=generator).split(batch_size))

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise TypeError("objectives of ppl_vae trace with ppl_vae.inference.draws.draw")


def check_objective(name: str, objective: Any) -> None:
    """Raises a ValueError unless `objective` is one of this backend."""
    check_type(name, objective, Objective, "a ppl_vae objective")


class PyroObjective(Objective):
    """One of Pyro's own ELBO classes where an `Objective` is asked for."""

    def __init__(self, objective: PyroELBO) -> None:
        known = isinstance(objective, PyroELBO)
        if not (known and hasattr(objective, "differentiable_loss")):
            was = f"the class {objective.__name__}" if isinstance(objective, type) else None
            raise ValueError(
                "objective should be a ppl_vae objective or a pyro.infer.ELBO with "
                f"differentiable_loss, was {was or type(objective).__name__}"
            )
        super().__init__()
        self.objective: Any = objective
        self.name = type(objective).__name__  # a resumed run is compared by such plain attributes
        self.num_particles = objective.num_particles

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        loss: Tensor = self.objective.differentiable_loss(model, guide, *data, **kwargs)
        return loss

    def loss(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> float:
        # TraceEnum_ELBO's differentiable_loss refuses to run without gradients.
        with torch.no_grad():
            return float(self.objective.loss(model, guide, *data, **kwargs))
