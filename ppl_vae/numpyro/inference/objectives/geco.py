"""See `ppl_vae.inference.objectives.geco`."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp
from numpyro import handlers

from ppl_vae.numpyro.inference.draws import Program, draw
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.shared.objectives.geco import (
    LARGEST,
    LARGEST_STEP,
    Update,
    check_settings,
    check_sites,
    independent_of,
)


class GECO(Objective):
    """See `ppl_vae.inference.GECO`."""

    def __init__(
        self,
        tolerance: float,
        *,
        k: int = 1,
        inner: Sequence[str] = (),
        update: Update = "rewo",
        start: float = 0.01,
        rate: float = 0.01,
        tau: float = 1.0,
        decay: float = 0.99,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        positive = {"start": start, "rate": rate, "tau": tau}
        self.inner = check_settings(tolerance, inner, update, decay, **positive)
        self.tolerance, self.update = tolerance, update
        self.start, self.rate, self.tau, self.decay = start, rate, tau, decay
        self._state = self.state()

    def state(self) -> dict[str, Array]:
        numbers = {"beta": self.start, "reconstruction": math.nan, "reached": 0.0}
        return {name: jnp.asarray(value) for name, value in numbers.items()}

    def for_evaluation(self) -> Self:
        return self.with_state({**self.state(), "beta": jnp.asarray(1.0)})

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        return self.loss_and_state(model, guide, *data, key=key, **kwargs)[0]

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        reconstruction, kl = self.per_datum(model, guide, *data, key=key, **kwargs)
        loss = (reconstruction + self._state["beta"] * kl).sum()
        return loss, self._next(lax.stop_gradient(reconstruction).mean())

    def loss_with_mutable_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise ValueError(
            "GECO should be trained by ppl_vae.numpyro.inference.fit, which advances its beta, was "
            "called by numpyro.infer.SVI, which cannot"
        )

    def _next(self, reconstruction: Array) -> dict[str, Array]:
        old = self._state
        beta, average = old["beta"], old["reconstruction"]
        average = jnp.where(
            jnp.isnan(average),
            reconstruction,
            self.decay * average + (1 - self.decay) * reconstruction,
        )
        delta = average - self.tolerance
        reached = jnp.where(delta <= 0, 1.0, old["reached"])
        change = -delta  # (1)
        if self.update == "rewo":
            towards_1 = jnp.tanh(self.tau * (beta - 1)) * delta
            change = reached * jnp.where(delta <= 0, towards_1, -delta)  # (2)
        step = (self.rate * change).clip(-LARGEST_STEP, LARGEST_STEP)
        beta = jnp.exp((jnp.log(beta) + step).clip(-LARGEST, LARGEST))
        new = {"beta": beta, "reconstruction": average, "reached": reached}
        return {name: value.astype(old[name].dtype) for name, value in new.items()}

    def per_datum(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, Array]:
        settings = {"max_plate_nesting": self.max_plate_nesting, **kwargs}
        for_outer, for_inner = jax.random.split(key)
        k = 1 if self.inner else self.k
        draws = draw(model, guide, *data, k=k, key=for_outer, **settings)
        check_sites(draws, self.inner)
        observed = [site for site in draws.model.values() if site.observed]
        outer = [s for s in draws.guide.values() if not (s.observed or s.name in self.inner)]
        log_x, log_q = _sum(observed), _sum(outer)
        if not self.inner:
            log_p = _sum(site for site in draws.model.values() if not site.observed)
            return -log_x.mean(0), (log_q - log_p + jnp.zeros_like(log_x)).mean(0)

        values = {site.name: site.value for site in outer}
        dim = -1 - self.max_plate_nesting
        hide_x = independent_of(self.inner, {site.name for site in observed}, dim, hide=True)
        hide_none = independent_of(self.inner, set(values), dim, hide=False)
        prior = handlers.condition(handlers.block(model, hide_fn=hide_x), data=values)
        proposal = handlers.condition(handlers.block(guide, hide_fn=hide_none), data=values)
        again = draw(prior, proposal, *data, k=self.k, key=for_inner, **settings)
        drawn = [site for site in again.guide.values() if not site.observed]
        log_w = _sum(again.model.values()) - _sum(drawn)
        return -log_x[0], (log_q - logsumexp(log_w, 0) + math.log(self.k)).reshape(-1)  # (3)


def _sum(sites: Any) -> Array:
    terms: list[Array] = [site.log_prob for site in sites]
    return reduce(jnp.add, terms, jnp.zeros(()))
