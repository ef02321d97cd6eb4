"""See `ppl_vae.inference.training.lagging`."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpyro.infer import ELBO as NumPyroELBO
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.numpyro.inference.draws import Draws, Program, Site, draw
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.parts.base import NumPyroObjective, Objective
from ppl_vae.numpyro.inference.training.faults import depended_on
from ppl_vae.numpyro.models.base import Model, parameters, with_parameters
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
    """See `ppl_vae.inference.Lagging`; cannot be used with NumPyro's SVI."""

    def __init__(
        self,
        objective: NumPyroELBO | None = None,
        max_steps: int = 100,
        window: int = 10,
        patience: int = 1,
        subset: int = 500,
    ) -> None:
        check_wrapped(objective)
        check_lagging(max_steps, window, patience, subset)
        given = ELBO() if objective is None else objective
        wrapped = given if isinstance(given, Objective) else NumPyroObjective(given)
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
        self._mutual_information(model, some)  # fail before training, if at all
        return prepared

    def group_of(self, parameter: str) -> str:
        of_network = parameter.startswith("network:")
        return OF_GUIDE if of_network or parameter in self.of_guide else OF_MODEL

    def turns(self) -> tuple[Turn, ...]:
        if self._state["lagging"] > 0:
            return Turn(OF_GUIDE, self.max_steps, self.window), Turn(OF_MODEL)
        return (Turn(),)

    def after_epoch(self, model: Any, *data: Any) -> dict[str, Array]:
        left, best = (float(self._state[name]) for name in ("lagging", "mutual_information"))
        if left == 0:
            return {}
        found = self._mutual_information(model, self._some(data))
        left, best = still_lagging(left, best, found)
        return {"lagging": jnp.asarray(left), "mutual_information": jnp.asarray(best)}

    def _some(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part[: self.subset] for part in data)

    def _mutual_information(self, model: Any, data: tuple[Any, ...]) -> float:
        found = elbo_surgery(model, data, max_plate_nesting=self.max_plate_nesting)
        return float(found.mutual_information.values.mean())

    def _around(self, objective: Objective) -> Self:
        changed = copy.copy(self)
        changed.objective = objective
        return changed

    def check(self, model: Any, *data: Any) -> None:
        self.objective.check(model, *data)

    def network_weights(self) -> dict[str, Array]:
        return self.objective.network_weights()

    def with_network_weights(self, weights: Mapping[str, Array]) -> Self:
        return self._around(self.objective.with_network_weights(weights))

    def state(self) -> dict[str, Array]:
        numbers = {"lagging": float(self.patience), "mutual_information": -math.inf}
        own = {name: jnp.asarray(value) for name, value in numbers.items()}
        return {**self.objective.state(), **own}

    def with_state(self, state: Mapping[str, Array]) -> Self:
        of_objective = {name: state[name] for name in self.objective.state()}
        changed = super().with_state(state)
        changed.objective = self.objective.with_state(of_objective)
        return changed

    def at(self, epoch: Any) -> Self:
        return self._around(self.objective.at(epoch))

    def for_evaluation(self) -> Any:
        return self.objective.for_evaluation()

    def batches(
        self, batch_size: int, generator: np.random.Generator, *data: Any
    ) -> list[np.ndarray]:
        return self.objective.batches(batch_size, generator, *data)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        return self.objective.differentiable_loss(model, guide, *data, key=key, **kwargs)

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        loss, state = self.objective.loss_and_state(model, guide, *data, key=key, **kwargs)
        return loss, {**self._state, **state}

    def loss_with_mutable_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise ValueError(
            "Lagging should be trained by ppl_vae.numpyro.inference.fit, which steps the "
            "parameters of guide and model in turn, was called by numpyro.infer.SVI, which cannot"
        )


def guide_parameters(model: Model, *data: Any, nesting: int = 1) -> list[str]:
    """See `ppl_vae.inference.training.lagging.guide_parameters`."""
    named = parameters(model)
    weight = next(iter(named.values()))
    batches = Batches(sample_once(data, 0), next(iter(weight.devices())), weight.dtype)

    def draws(weights: Mapping[str, Array]) -> Draws:
        pair = with_parameters(model, weights)
        settings: dict[str, Any] = {"max_plate_nesting": nesting, "key": jax.random.key(0)}
        with _Cut():
            return draw(pair.model, pair.guide, *batches.arrays, **settings)

    def log_q(weights: Mapping[str, Array]) -> Array:
        return _sum(site for site in draws(weights).guide.values() if not site.observed)

    def log_p(weights: Mapping[str, Array]) -> Array:
        return _sum(draws(weights).model.values())

    return only_guide(depended_on(log_q, named), depended_on(log_p, named))


def _sum(sites: Iterable[Site]) -> Array:
    return sum((site.log_prob.sum() for site in sites), start=jnp.zeros(()))


class _Cut(Messenger):  # type: ignore[misc]
    """Stop the gradient from draws to the parameters of their distributions."""

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["value"] = lax.stop_gradient(msg["value"])
            msg["intermediates"] = []  # they hold the value with its gradient
