"""What `fit`, NumPyro's SVI and a user's own loop ask of an objective."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.infer import ELBO as NumPyroELBO
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.draws import Program
from ppl_vae.numpyro.models.base import buffers, check_model
from ppl_vae.shared.arguments import constructor_call
from ppl_vae.shared.checks import check_type, check_whole
from ppl_vae.shared.training.turns import Turn


class Objective(NumPyroELBO):  # type: ignore[misc]
    """A loss of a model/guide pair, summed over the data of a batch.

    It is a `numpyro.infer.ELBO`: `SVI(model, guide, optimizer, objective)` works. A subclass
    defines `differentiable_loss`.

    Args:
        k: Number of particles, all drawn side by side.
        max_plate_nesting: Number of plate dimensions of the programs, see `draws.draw`.
    """

    can_infer_discrete = True

    def __init__(self, k: int = 1, *, max_plate_nesting: int = 1) -> None:
        check_whole("k", k, 1)
        check_whole("max_plate_nesting", max_plate_nesting, 1)
        super().__init__(num_particles=k)
        self.k = k
        self.max_plate_nesting = max_plate_nesting
        self._state: Mapping[str, Array] = {}

    def __repr__(self) -> str:
        return constructor_call(self)

    @abstractmethod
    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        """The loss, a scalar whose gradient is an unbiased estimate of the objective's gradient."""

    def loss_with_mutable_state(
        self,
        rng_key: Array,
        param_map: Mapping[str, Any],
        model: Program,
        guide: Program,
        *data: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The loss with `param_map` in the place of `numpyro.param` sites (SVI's interface).

        The state of `numpyro_mutable` sites goes from the guide to the model and is returned.
        """
        state = SharedState()
        with state, handlers.substitute(data=dict(param_map)):
            loss = self.differentiable_loss(model, guide, *data, key=rng_key, **kwargs)
        return {"loss": loss, "mutable_state": state.values or None}

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

    def network_weights(self) -> dict[str, Array]:
        """The weights of networks of the objective that are trained with the model, by name.

        Most have none. `fit` trains them and saves them in its checkpoints.
        """
        return {}

    def with_network_weights(self, weights: Mapping[str, Array]) -> Self:
        """The objective with these weights in the place of those of `network_weights()`."""
        return self

    def state(self) -> dict[str, Array]:
        """The numbers of the objective that training changes, as they are at first: name -> scalar.

        Most have none. `fit` keeps them, reports them after every epoch and saves them.
        """
        return {}

    def with_state(self, state: Mapping[str, Array]) -> Self:
        """The objective with these numbers in the place of those of `state()`."""
        changed = copy.copy(self)
        changed._state = dict(state)
        return changed

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        """`differentiable_loss`, and the numbers for the step after this one; `fit` calls it."""
        return self.differentiable_loss(model, guide, *data, key=key, **kwargs), {}

    def at(self, epoch: Any) -> Self:
        """The objective in this epoch (the first is 1, and jit traces it); `fit` calls it."""
        return self

    def group_of(self, parameter: str) -> str:
        """The group of a parameter of the model or the objective's networks, by its name."""
        return ""

    def turns(self) -> tuple[Turn, ...]:
        """What is stepped on the way through each batch, in this order; asked before each epoch."""
        return (Turn(),)

    def after_epoch(self, model: Any, *data: Any) -> dict[str, Array]:
        """Those numbers of `state` that an epoch changes at its end; `fit` calls it."""
        return {}

    def for_evaluation(self) -> Self:
        """What `mean_loss` and validation measure: without the weights that only training has."""
        return self

    def batches(
        self, batch_size: int, generator: np.random.Generator, *data: Any
    ) -> list[np.ndarray]:
        """Indices of each batch of an epoch: a random order, cut into pieces of `batch_size`."""
        return cut(generator.permutation(len(data[0])), batch_size)


def check_objective(name: str, objective: Any) -> None:
    """Raises a ValueError unless `objective` is one of this backend."""
    check_type(name, objective, Objective, "a ppl_vae.numpyro objective")


class NumPyroObjective(Objective):
    """One of NumPyro's own ELBO classes where an `Objective` is asked for."""

    def __init__(self, objective: NumPyroELBO) -> None:
        if not isinstance(objective, NumPyroELBO):
            was = f"the class {objective.__name__}" if isinstance(objective, type) else None
            raise ValueError(
                "objective should be a ppl_vae.numpyro objective or a numpyro.infer.ELBO, "
                f"was {was or type(objective).__name__}"
            )
        super().__init__()
        self.objective = objective
        self.name = type(objective).__name__  # a resumed run is compared by such plain attributes
        self.num_particles = objective.num_particles

    def prepare(self, model: Any, *data: Any) -> Self:
        if self.num_particles > 1 and buffers(model):
            raise ValueError(
                "objective should have num_particles=1 for a model with batch normalisation, or "
                f"be one of ppl_vae.numpyro, was {self.name}(num_particles={self.num_particles})"
            )
        return super().prepare(model, *data)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        loss: Array = self.objective.loss(key, {}, model, guide, *data, **kwargs)
        return loss


def cut(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Pieces of `size` indices; the last may be smaller."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


class SharedState(Messenger):  # type: ignore[misc]
    """Hands one value of each mutable site from program to program."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "mutable" and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            self.values[msg["name"]] = msg["value"]
