"""See `ppl_vae.inference.objectives.relaxed`."""

import copy
from collections.abc import Mapping
from typing import Any, Self

from jax import Array
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.draws import Program, draw
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.numpyro.inference.objectives.parts.elbo_terms import elbo_of_globals, elbo_per_datum
from ppl_vae.numpyro.models.distributions.concrete import RELAXATIONS, kind_of, relax
from ppl_vae.shared.checks import check_flag, check_positive
from ppl_vae.shared.objectives.relaxed import (
    check_not_given,
    check_one_kind,
    check_relaxable,
    check_some_discrete,
)
from ppl_vae.shared.schedules import Schedule


class Relaxed(Objective):
    """See `ppl_vae.inference.Relaxed`.

    Programs must use relaxed values as numbers: `z.astype(int)` has no gradient, and unlike in Pyro
    this is not noticed.
    """

    def __init__(
        self,
        temperature: float | Schedule = 0.5,
        hard: bool = False,
        k: int = 1,
        *,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        if not isinstance(temperature, Schedule):
            check_positive("temperature", temperature)
        check_flag("hard", hard)
        self.temperature, self.hard = temperature, hard

    def at(self, epoch: Any) -> Self:
        if not isinstance(self.temperature, Schedule):
            return self
        changed = copy.copy(self)
        changed.temperature = self.temperature(epoch)
        return changed

    def for_evaluation(self) -> Any:
        return ELBO(self.k, max_plate_nesting=self.max_plate_nesting)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        if isinstance(self.temperature, Schedule):
            raise ValueError(
                "temperature should be a number where no epoch is known, was a "
                f"{type(self.temperature).__name__}: fit knows the epoch, elsewhere use "
                "objective.at(epoch)"
            )
        nesting = self.max_plate_nesting
        of_guide = _Relaxing(guide, self.temperature, self.hard)
        of_model = _Relaxing(model, self.temperature, self.hard, of_guide.kinds)
        settings = {"max_plate_nesting": nesting, "key": key, **kwargs}
        draws = draw(of_model, of_guide, *data, k=self.k, **settings)
        check_some_discrete(of_guide.kinds.values())
        local = elbo_per_datum(draws, max_plate_nesting=nesting)
        return -(local.sum() + elbo_of_globals(draws))


class _Relaxing(Messenger):  # type: ignore[misc]
    def __init__(
        self,
        program: Program,
        temperature: float | Array,
        hard: bool,
        of_guide: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(program)
        self.temperature, self.hard, self.of_guide = temperature, hard, of_guide
        self.kinds: dict[str, str] = {}

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        name, kind = msg["name"], kind_of(msg["fn"])
        if self.of_guide is None:
            check_relaxable(name, kind, RELAXATIONS, msg["infer"])
        elif name in self.of_guide:
            check_one_kind(name, kind, self.of_guide[name])
        else:  # the model's alone
            return
        self.kinds[name] = kind
        if kind in RELAXATIONS:
            check_not_given(name, msg["value"])
            msg["fn"] = relax(msg["fn"], self.temperature)

    def postprocess_message(self, msg: Any) -> None:
        relaxation = RELAXATIONS.get(self.kinds.get(msg.get("name"), ""))
        if relaxation is not None:
            msg["value"] = relaxation.site_value(msg["value"], self.hard)
