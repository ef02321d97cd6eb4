"""Base class of objectives: the interface to `fit`, Pyro's SVI and custom training loops."""

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

    An objective is a `pyro.infer.ELBO`: `SVI(model, guide, optimizer, objective)` and
    `objective(model, guide)(*data)` work. Subclasses define `differentiable_loss`.

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
        """Compute the loss, a scalar whose gradient estimates that of the objective."""

    def loss(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> float:
        """Compute the loss as a number, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *data, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> float:
        """Compute the loss and accumulate gradients; called by Pyro's SVI.

        Updates the objective's state and registers the parameters of `networks` with SVI.
        """
        for network in self.networks().values():
            register_parameters(network)
        loss, state = self.loss_and_state(model, guide, *data, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        self._state = state
        return loss.item()

    def check(self, model: Any, *data: Any) -> None:
        """Raise a ValueError if `data` are not valid arguments of the loss."""
        check_model(model)
        model.check(*data)

    def prepare(self, model: Any, *data: Any) -> Self:
        """Check the data and return the objective for this data set; called once by `fit`.

        Raises:
            ValueError: The data are not valid for the model and the objective.
        """
        self.check(model, *data)
        return self

    def networks(self) -> dict[str, nn.Module]:
        """Return the objective's own networks by name; most objectives have none.

        `fit` and Pyro's SVI train them in place, and `fit` saves them in its checkpoints.
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return initial values of the objective's mutable state, scalars by name.

        Most objectives have none. `fit` carries the state, reports it after every epoch and saves
        it.
        """
        return {}

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """Return the objective with this state in place of the initial one."""
        changed = copy.copy(self)
        changed._state = dict(state)
        return changed

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute `differentiable_loss` and the state for the next step; called by `fit`."""
        return self.differentiable_loss(model, guide, *data, **kwargs), {}

    def sums(self, *data: Any) -> Iterator[tuple[float, "Objective", Sequence[Any]]]:
        """Split the loss of a batch into sums over data, each divided among processes separately.

        Yields:
            The weight of a sum, the objective that computes it, and its data. The weighted losses
            add up to the loss of the batch.
        """
        yield 1.0, self, data

    def at(self, epoch: int) -> Self:
        """Return the objective of an epoch, from 1; called by `fit`."""
        return self

    def group_of(self, parameter: str) -> str:
        """Return the group of a parameter of the model or of the objective's networks."""
        return ""

    def turns(self) -> tuple[Turn, ...]:
        """Return the updates to make for each batch, in order; called before each epoch."""
        return (Turn(),)

    def after_epoch(self, model: Any, *data: Any) -> dict[str, Tensor]:
        """Return the entries of `state` that change at the end of an epoch; called by `fit`."""
        return {}

    def for_evaluation(self) -> Self:
        """Return the objective for evaluation, without training-only weights (beta, free bits)."""
        return self

    def batches(self, batch_size: int, generator: torch.Generator, *data: Any) -> Iterator[Tensor]:
        """Yield the indices of each batch of an epoch: a random order, split by batch size."""
        return iter(torch.randperm(len(data[0]), generator=generator).split(batch_size))

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise TypeError("objectives of ppl_vae trace with ppl_vae.inference.draws.draw")


def check_objective(name: str, objective: Any) -> None:
    """Check that `objective` is an objective of this backend."""
    check_type(name, objective, Objective, "a ppl_vae objective")


class PyroObjective(Objective):
    """Adapter for Pyro's own ELBO classes."""

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
