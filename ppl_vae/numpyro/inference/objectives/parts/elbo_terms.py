"""See `ppl_vae.inference.objectives.parts.elbo_terms`."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp
from numpyro.distributions.util import scale_and_mask

from ppl_vae.numpyro.inference.draws import Draws, unwrap
from ppl_vae.numpyro.inference.objectives.parts.equality import same
from ppl_vae.numpyro.inference.objectives.parts.kl import closed_kl


@dataclass(frozen=True)
class ElboTerms:
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
    return elbo_terms(draws, analytic_kl, beta, max_plate_nesting).bound()


def elbo_terms(
    draws: Draws, analytic_kl: bool, beta: float | Array, max_plate_nesting: int
) -> ElboTerms:
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
    return ElboTerms(weight, log_w, _sum(scored) if scored else None)


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
