"""See `ppl_vae.inference.objectives.parts.base`."""

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
    """See `ppl_vae.inference.Objective`.

    A `numpyro.infer.ELBO`: `SVI(model, guide, optimizer, objective)` works. In a compiled epoch the
    number given to `at` is traced.
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
        """See `ppl_vae.inference.Objective.differentiable_loss`; takes a keyword-only `key`."""

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
        check_model(model)
        model.check(*data)

    def prepare(self, model: Any, *data: Any) -> Self:
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
        return {}

    def with_state(self, state: Mapping[str, Array]) -> Self:
        changed = copy.copy(self)
        changed._state = dict(state)
        return changed

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        return self.differentiable_loss(model, guide, *data, key=key, **kwargs), {}

    def at(self, epoch: Any) -> Self:
        return self

    def group_of(self, parameter: str) -> str:
        return ""

    def turns(self) -> tuple[Turn, ...]:
        return (Turn(),)

    def after_epoch(self, model: Any, *data: Any) -> dict[str, Array]:
        return {}

    def for_evaluation(self) -> Self:
        return self

    def batches(
        self, batch_size: int, generator: np.random.Generator, *data: Any
    ) -> list[np.ndarray]:
        return cut(generator.permutation(len(data[0])), batch_size)


def check_objective(name: str, objective: Any) -> None:
    """See `ppl_vae.inference.objectives.parts.base.check_objective`."""
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
