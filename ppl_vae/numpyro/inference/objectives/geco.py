"""See `ppl_vae.inference.objectives.geco`."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from numbers import Real
from typing import Any, Literal, Self, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp
from numpyro import handlers

from ppl_vae.numpyro.inference.draws import Draws, Program, draw
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.shared.checks import check_fraction, check_positive

Update = Literal["rewo", "geco"]
LARGEST = math.log(1e6)
"""Of |log beta|, beyond which nothing is left to gain."""
LARGEST_STEP = 0.1
"""Of log beta: at first the constraint is violated by hundreds of nats."""


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
        _check_arguments(tolerance, inner, update)
        for name, value in (("start", start), ("rate", rate), ("tau", tau)):
            check_positive(name, value)
        check_fraction("decay", decay)
        self.tolerance, self.inner, self.update = tolerance, tuple(inner), update
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
        _check(draws, self.inner)
        observed = [site for site in draws.model.values() if site.observed]
        outer = [s for s in draws.guide.values() if not (s.observed or s.name in self.inner)]
        log_x, log_q = _sum(observed), _sum(outer)
        if not self.inner:
            log_p = _sum(site for site in draws.model.values() if not site.observed)
            return -log_x.mean(0), (log_q - log_p + jnp.zeros_like(log_x)).mean(0)

        values = {site.name: site.value for site in outer}
        hide_x = self._free_of_inner({site.name for site in observed}, hide=True)
        hide_none = self._free_of_inner(set(values), hide=False)
        prior = handlers.condition(handlers.block(model, hide_fn=hide_x), data=values)
        proposal = handlers.condition(handlers.block(guide, hide_fn=hide_none), data=values)
        again = draw(prior, proposal, *data, k=self.k, key=for_inner, **settings)
        drawn = [site for site in again.guide.values() if not site.observed]
        log_w = _sum(again.model.values()) - _sum(drawn)
        return -log_x[0], (log_q - logsumexp(log_w, 0) + math.log(self.k)).reshape(-1)  # (3)

    def _free_of_inner(self, names: set[str], *, hide: bool) -> Callable[[Any], bool]:
        particles = -1 - self.max_plate_nesting

        def hidden(msg: Any) -> bool:
            if msg["type"] != "sample" or msg["name"] not in names:
                return False
            shape = msg["fn"].batch_shape
            if len(shape) >= -particles and shape[particles] > 1:
                raise ValueError(
                    "inner should be sites that no other one but the latents of the model depends "
                    f"on, was {self.inner}, on which {msg['name']!r} depends"
                )
            return hide

        return hidden


def _check_arguments(tolerance: Any, inner: Any, update: Any) -> None:
    if not (isinstance(tolerance, Real) and math.isfinite(float(tolerance))):
        raise ValueError(f"tolerance should be a finite number, was {tolerance!r}")
    if update not in get_args(Update):
        raise ValueError(f"update should be one of {get_args(Update)}, was {update!r}")
    names = isinstance(inner, Sequence) and not isinstance(inner, str)
    if not (names and all(isinstance(name, str) for name in inner)):
        raise ValueError(f"inner should be a sequence of names of sites, was {inner!r}")


def _check(draws: Draws, inner: Sequence[str]) -> None:
    latents = [site for site in draws.guide.values() if not site.observed]
    names = [site.name for site in latents]
    if not latents:
        raise ValueError("guide should draw a latent site, whose KL is made small, drew none")
    for name in inner:
        if name not in names:
            raise ValueError(f"inner should be latent sites of the guide, {names}, had {name!r}")
    for site in (*draws.model.values(), *latents):
        if site.enum_dim is not None or (site.name in names and site.needs_score_function):
            raise ValueError(
                f"site {site.name!r} should be reparametrised, which it is not: use ELBO"
            )
        if not site.local:
            raise ValueError(
                f"site {site.name!r} should lie in the data plate, but it belongs to all data"
            )
        if isinstance(site.scale, Array) or site.scale != 1:
            raise ValueError(f"site {site.name!r} should have no scale, had {site.scale}")
    if not any(site.observed for site in draws.model.values()):
        raise ValueError("model should have an observed site, on which the constraint is, had none")


def _sum(sites: Any) -> Array:
    terms: list[Array] = [site.log_prob for site in sites]
    return reduce(jnp.add, terms, jnp.zeros(()))
