"""See `ppl_vae.inference.objectives.wake_sleep`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro import handlers
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.draws import Draws, Program, sites_of
from ppl_vae.numpyro.inference.objectives.iwae import log_mean_exp
from ppl_vae.numpyro.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.objectives.wake_sleep import check_phases, in_place_of_data


class RWS(PathObjective):
    """See `ppl_vae.inference.RWS`."""

    def __init__(
        self,
        k: int,
        wake_phi: bool = True,
        sleep_phi: bool = False,
        *,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_phases(k, wake_phi, sleep_phi)
        self.wake_phi, self.sleep_phi = wake_phi, sleep_phi

    def value(self, log_w: Array) -> Array:
        return -log_mean_exp(log_w)

    def surrogate(self, draws: Draws, log_w: Array, scale: Array, paths: Paths) -> Array:
        share, log_q = jax.nn.softmax(lax.stop_gradient(log_w), axis=0), paths.log_q
        awake = self.wake_phi / (self.wake_phi + self.sleep_phi)
        return -(scale * share * (log_w + log_q + awake * log_q)).sum()  # (1), (2)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        for_wake, for_sleep = jax.random.split(key)
        loss = super().differentiable_loss(model, guide, *data, key=for_wake, **kwargs)
        if not self.sleep_phi:
            return loss
        settings = {"max_plate_nesting": self.max_plate_nesting, "key": for_sleep, **kwargs}
        asleep = _sleep(model, guide, *data, **settings) / (self.wake_phi + self.sleep_phi)
        return loss + (asleep - lax.stop_gradient(asleep))


class WakeSleep(RWS):
    """See `ppl_vae.inference.WakeSleep`."""

    def __init__(self, *, max_plate_nesting: int = 1) -> None:
        super().__init__(1, wake_phi=False, sleep_phi=True, max_plate_nesting=max_plate_nesting)


def _sleep(
    model: Program, guide: Program, *data: Any, max_plate_nesting: int, key: Array, **kwargs: Any
) -> Array:
    for_dream, for_guide = jax.random.split(key)
    simulated = handlers.seed(handlers.uncondition(_Still(model)), for_dream)
    dream = _as_constants(handlers.trace(simulated).get_trace(*data, **kwargs))
    data, kwargs = in_place_of_data(_simulated(dream), data, kwargs)
    replayed = handlers.replay(handlers.seed(_Still(guide), for_guide), dream)
    trace = handlers.trace(replayed).get_trace(*data, **kwargs)
    total = jnp.zeros(())
    for site in sites_of(trace, max_plate_nesting).values():
        if site.observed:
            continue
        if site.name not in dream:
            raise ValueError(
                f"site {site.name!r} should be drawn by the model, which simulates it in the sleep "
                "phase, was drawn by the guide alone: use RWS with sleep_phi=False"
            )
        total = total - (site.scale * site.log_prob).sum()
    return total


def _as_constants(trace: Any) -> dict[str, Any]:
    """The trace without gradients of its draws."""
    return {
        name: {**site, "value": lax.stop_gradient(site["value"])}
        if site["type"] == "sample"
        else site
        for name, site in trace.items()
    }


def _simulated(dream: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {}
    for name, node in dream.items():
        if node["type"] == "sample" and "was_observed" in node["infer"]:
            observed = node["infer"]["obs"]
            found[name] = observed, node["value"].astype(observed.dtype)
    return found


class _Still(Messenger):  # type: ignore[misc]
    """Gives a program copies of its mutable sites, so that nothing keeps what it writes to them."""

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            msg["value"] = dict(msg["value"])
