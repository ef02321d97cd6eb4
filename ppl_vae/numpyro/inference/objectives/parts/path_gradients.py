"""See `ppl_vae.inference.objectives.parts.path_gradients`."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.draws import Draws, Program, draw
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.numpyro.inference.objectives.parts.log_weights import (
    check_per_datum,
    latents,
    log_guide,
    log_weights,
    scale_of,
)


@dataclass(frozen=True)
class Paths:
    """The guide's reparametrised draws, and what depends on them.

    Attributes:
        drawn: The draws by site, with the path z = g(noise, parameters).
        cut: The same values as constants.
        log_q: log q(z | x) at the constants, shape (K, N): it depends on parameters directly alone.
        pull: The gradient by the constants of a sum of log weights with these coefficients.
    """

    drawn: dict[str, Array]
    cut: dict[str, Array]
    log_q: Array
    pull: Callable[[Array], dict[str, Array]]

    def along(self, weight: Array) -> Array:
        """0, with the gradient of sum(weight log_w) along the paths alone."""
        grads = lax.stop_gradient(self.pull(weight))
        return sum(
            (
                (grads[name] * (value - lax.stop_gradient(value))).sum()
                for name, value in self.drawn.items()
            ),
            start=jnp.zeros(()),
        )


class PathObjective(Objective):
    """See `ppl_vae.inference.objectives.parts.path_gradients.PathObjective`."""

    def __init__(self, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)

    def check_draws(self, draws: Draws) -> None:
        """Raises a ValueError that says for what sites there is no such loss."""
        check_per_datum(draws)

    @abstractmethod
    def value(self, log_w: Array) -> Array:
        """The loss of each datum, (N,), from log weights of shape (K, N)."""

    @abstractmethod
    def surrogate(self, draws: Draws, log_w: Array, scale: Array, paths: Paths) -> Array:
        """A number whose gradient is that of the loss of all data."""

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        settings = {"max_plate_nesting": self.max_plate_nesting, "key": key, **kwargs}

        def run() -> Draws:
            return draw(model, guide, *data, k=self.num_particles, **settings)

        held = _Held()
        with held:
            draws = run()
        self.check_draws(draws)
        log_w, paths = _with_paths(draws, held.values, run)
        scale = scale_of(draws)
        value = lax.stop_gradient((scale * self.value(log_w)).sum())
        surrogate = self.surrogate(draws, log_w, scale, paths)
        return value + (surrogate - lax.stop_gradient(surrogate))


def _with_paths(
    draws: Draws, held: Mapping[str, Any], run: Callable[[], Draws]
) -> tuple[Array, Paths]:
    """log w as a function of the draws, by running the programs again at their values."""
    values = {site.name: lax.stop_gradient(site.value) for site in latents(draws)}
    drawn = {site.name: site.value for site in latents(draws) if not site.needs_score_function}

    def at(cut: dict[str, Array]) -> tuple[Array, Array]:
        with _Given({**values, **cut}, held):
            again = run()
        return log_weights(again), log_guide(again)

    cut = {name: values[name] for name in drawn}
    log_w, vjp, log_q = jax.vjp(at, cut, has_aux=True)
    return log_w, Paths(drawn, cut, log_q, lambda weight: vjp(weight)[0])


class _Held(Messenger):  # type: ignore[misc]
    """Keeps what mutable sites (running statistics) hold before a run writes to them."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable" and msg["name"] not in self.values:
            self.values[msg["name"]] = _copy(msg["value"])


class _Given(Messenger):  # type: ignore[misc]
    """Gives the guide's draws their values; around all, so that random keys are as without it.

    Mutable sites hold what they did before the first run, and what this one writes is not kept.
    """

    def __init__(self, values: Mapping[str, Array], held: Mapping[str, Any]) -> None:
        super().__init__()
        self.values, self.held = values, {name: _copy(value) for name, value in held.items()}

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            msg["value"], msg["stop"] = self.held[msg["name"]], True
        elif msg["type"] == "sample" and not msg["is_observed"] and msg["value"] is None:
            msg["value"] = self.values.get(msg["name"])


def _copy(held: Any) -> Any:
    """Other containers, of the same arrays."""
    return jax.tree.map(lambda array: array, held)
