"""See `ppl_vae.inference.objectives.elbo`."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.distributions.util import scale_and_mask

from ppl_vae.numpyro.inference.draws import Draws, Program, draw, unwrap
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.numpyro.inference.objectives.parts.baselines import (
    Baseline,
    centring,
    check_baseline,
    description,
)
from ppl_vae.numpyro.inference.objectives.parts.kl import closed_kl, free_bits_penalty, same
from ppl_vae.numpyro.models.base import parameters, with_parameters
from ppl_vae.shared.checks import check_at_least, check_flag
from ppl_vae.shared.objectives.free_bits import FreeBits, as_free_bits
from ppl_vae.shared.schedules import Schedule


class ELBO(Objective):
    """See `ppl_vae.inference.ELBO`.

    A baseline is trained by `fit` alone: `numpyro.infer.SVI` has no place for what is learned, and
    is refused. `fit` does not change the given network, an `equinox.Module`; the trained one is in
    the checkpoint, under "network.baseline".
    """

    def __init__(
        self,
        k: int = 1,
        analytic_kl: bool = False,
        *,
        baseline: Baseline = None,
        beta: float | Schedule = 1.0,
        free_bits: float | FreeBits = 0.0,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_flag("analytic_kl", analytic_kl)
        check_baseline(baseline)
        if not isinstance(beta, Schedule):
            check_at_least("beta", beta, 0)
        as_free_bits(free_bits)
        self.analytic_kl, self.beta, self.free_bits = analytic_kl, beta, free_bits
        self.baseline = baseline
        self.network = description(baseline)  # a resumed run is compared by such plain attributes
        self._state = self.state()

    def network_weights(self) -> dict[str, Array]:
        if not isinstance(self.baseline, eqx.Module):
            return {}
        return {f"baseline.{name}": value for name, value in parameters(self.baseline).items()}

    def with_network_weights(self, weights: Mapping[str, Array]) -> Self:
        own = {name.removeprefix("baseline."): value for name, value in weights.items()}
        return self._with(baseline=with_parameters(self.baseline, own)) if own else self

    def state(self) -> dict[str, Array]:
        return {} if self.baseline is None else {"baseline": jnp.asarray(jnp.nan)}

    def at(self, epoch: Any) -> Self:
        return self._with(beta=self.beta(epoch)) if isinstance(self.beta, Schedule) else self

    def for_evaluation(self) -> Self:
        return self._with(baseline=None, beta=1.0, free_bits=0.0)

    def _with(self, **changes: Any) -> Self:
        changed = copy.copy(self)
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        return self.loss_and_state(model, guide, *data, key=key, **kwargs)[0]

    def loss_with_mutable_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.baseline is not None:
            raise ValueError(
                "baseline should be None in numpyro.infer.SVI, which cannot train it: use "
                "ppl_vae.numpyro.inference.fit"
            )
        return super().loss_with_mutable_state(*args, **kwargs)

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        beta = self.beta
        if isinstance(beta, Schedule):
            raise ValueError(
                "beta should be a number where no epoch is known, was a "
                f"{type(beta).__name__}: fit knows the epoch, elsewhere use objective.at(epoch)"
            )
        nesting = {"max_plate_nesting": self.max_plate_nesting}
        draws = draw(model, guide, *data, k=self.k, key=key, **nesting, **kwargs)
        free_bits = as_free_bits(self.free_bits)
        _check_weighed(draws, beta, free_bits)
        terms = _terms(draws, self.analytic_kl, beta, self.max_plate_nesting)
        loss, state = -elbo_of_globals(draws, beta=beta), {}
        if self.baseline is None:
            loss = loss - terms.bound().sum()
        else:
            average = self._state["baseline"]
            # A number that `draw` does not fold in or split off, for dropout in the network.
            with handlers.seed(rng_seed=jax.random.fold_in(key, 2)):
                centre = centring(draws, self.baseline, average, *data, **nesting, **kwargs)
            signal = terms.signal()
            loss = loss - terms.bound(centre.baseline).sum() + centre.error(signal)
            state = {"baseline": centre.next_average(signal)}
        if free_bits.nats > 0:
            settings: dict[str, Any] = {"analytic_kl": self.analytic_kl, **nesting}
            loss = loss + beta * free_bits_penalty(free_bits, draws, **settings)
        return loss, state


def _check_weighed(draws: Draws, beta: Any, free_bits: FreeBits) -> None:
    if any(not site.observed for site in draws.guide.values()):
        return
    for name, given in (("beta", not same(beta, 1.0)), ("free_bits", free_bits.nats > 0)):
        if given:
            raise ValueError(
                f"{name} should be left out for a guide that draws no latent site, of which there "
                "is no KL term to weigh"
            )


@dataclass(frozen=True)
class _Terms:
    weight: Array
    log_w: Array
    score: Array | None

    def signal(self) -> Array:
        return _flat(lax.stop_gradient(self.weight * self.log_w))

    def bound(self, baseline: float | Array = 0.0) -> Array:
        bound = self.weight * self.log_w
        if self.score is not None:
            signal = lax.stop_gradient(bound - self.weight * baseline)
            bound = bound + signal * (self.score - lax.stop_gradient(self.score))
        return _flat(bound).mean(0)


def _flat(bound: Array) -> Array:
    particles, n = bound.shape[-2:]
    return bound.reshape(-1, particles, n).sum(0)


def elbo_per_datum(
    draws: Draws,
    *,
    analytic_kl: bool = False,
    beta: float | Array = 1.0,
    max_plate_nesting: int = 1,
) -> Array:
    """See `ppl_vae.inference.objectives.elbo.elbo_per_datum`."""
    return _terms(draws, analytic_kl, beta, max_plate_nesting).bound()


def _terms(draws: Draws, analytic_kl: bool, beta: float | Array, max_plate_nesting: int) -> _Terms:
    guide = [site for site in draws.guide.values() if site.local and not site.observed]
    closed = {site.name for site in guide if analytic_kl and site.enum_dim is None}
    log_w = _log_joint(draws, beta, leave_out=closed)
    for site in guide:
        if site.name in closed:
            log_w = log_w - beta * site.scale * closed_kl(site, draws, max_plate_nesting)
        else:
            log_w = log_w - beta * site.scale * site.log_prob
    weight = jnp.exp(_sum(site.log_prob for site in guide if site.enum_dim is not None))
    scored = [site.log_prob for site in guide if site.needs_score_function]
    return _Terms(weight, log_w, _sum(scored) if scored else None)


def elbo_of_globals(draws: Draws, *, beta: float | Array = 1.0) -> Array:
    """See `ppl_vae.inference.objectives.elbo.elbo_of_globals`."""
    total = jnp.zeros(())
    for sign, sites in ((1.0, draws.model), (-1.0, draws.guide)):
        for site in sites.values():
            if site.local or (sign < 0 and site.observed):
                continue
            if site.needs_score_function or site.enum_dim is not None:
                raise ValueError(
                    f"site {site.name!r} should be reparametrised or lie in the data plate, was a "
                    f"global {type(unwrap(site.fn)[0]).__name__}: use another numpyro.infer.ELBO"
                )
            term = (site.scale * site.log_prob).sum((-2, -1)) / site.log_prob.shape[-2]
            weight = 1.0 if site.observed else beta
            total = total + sign * weight * term.sum()
    return total


def _log_joint(draws: Draws, beta: float | Array, leave_out: set[str]) -> Array:
    sites = [site for site in draws.model.values() if site.local and site.name not in leave_out]
    only_model = [site for site in sites if site.enum_dim is not None]
    only_model = [site for site in only_model if site.name not in draws.guide]
    if not only_model:
        return _sum((1.0 if s.observed else beta) * s.scale * s.log_prob for s in sites)
    if leave_out:
        raise ValueError(
            "analytic_kl should be False for a model that enumerates sites which the guide leaves "
            f"out ({[site.name for site in only_model]}), was True"
        )
    if not same(beta, 1.0):
        raise ValueError(
            "beta should be 1 for a model that enumerates sites which the guide leaves out "
            f"({[site.name for site in only_model]}), was {beta}"
        )
    scale, mask = sites[0].scale, sites[0].mask
    if not all(same(site.scale, scale) and same(site.mask, mask) for site in sites):
        raise ValueError(
            "all sites should have one scale and mask where the model sums over some of them"
        )
    dims = tuple(site.enum_dim for site in only_model if site.enum_dim is not None)
    joint = _sum(site.log_prob for site in sites)
    # The mask once more: a masked datum's sum over C classes is log C, where it should be nothing.
    masked: Array = scale_and_mask(logsumexp(joint, axis=dims, keepdims=True), mask=mask)
    return scale * masked


def _sum(terms: Iterable[Array]) -> Array:
    return reduce(jnp.add, terms, jnp.zeros((1, 1)))  # of one particle and one datum
