"""The evidence lower bound, with exact sums over enumerated sites, as `ppl_vae.inference.elbo`."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import logsumexp
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import scale_and_mask

from ppl_vae.numpyro.inference.draws import Draws, Program, Site, draw, peel, per_datum
from ppl_vae.numpyro.inference.objective import Objective


class ELBO(Objective):
    """-ELBO = -E_q[log p(x, z) - log q(z | x)], as `ppl_vae.inference.ELBO`.

    Args:
        k: Number of particles, whose average is taken.
        analytic_kl: KL(q(z | x) || p(z)) in closed form for each latent site in the data plate,
            where the default uses log q - log p at the draw.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) a closed form is asked for and there is none for a site.
    """

    def __init__(
        self, k: int = 1, analytic_kl: bool = False, *, max_plate_nesting: int = 1
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.analytic_kl = analytic_kl

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        nesting = self.max_plate_nesting
        draws = draw(model, guide, *data, k=self.k, max_plate_nesting=nesting, key=key, **kwargs)
        local = elbo_per_datum(draws, analytic_kl=self.analytic_kl, max_plate_nesting=nesting)
        return -(local.sum() + elbo_of_globals(draws))


def elbo_per_datum(draws: Draws, *, analytic_kl: bool = False, max_plate_nesting: int = 1) -> Array:
    """The bound of each datum, shape (N,), its gradient unbiased; sites in the data plate only."""
    guide = [site for site in draws.guide.values() if site.local and not site.observed]
    closed = [site for site in guide if analytic_kl and site.enum_dim is None]
    open_names = {site.name for site in guide} - {site.name for site in closed}
    log_w = _log_joint(draws, leave_out={site.name for site in closed})
    for site in guide:
        if site.name in open_names:
            log_w = log_w - site.scale * site.log_prob
        else:
            log_w = log_w - site.scale * _kl(site, draws, max_plate_nesting)
    # Equals 1 without enumerated sites.
    weight = jnp.exp(_sum(site.log_prob for site in guide if site.enum_dim is not None))
    bound = weight * log_w
    scored = [site.log_prob for site in guide if site.scored]
    if scored:
        score = _sum(scored)
        bound = bound + lax.stop_gradient(bound) * (score - lax.stop_gradient(score))
    particles, n = bound.shape[-2:]
    return bound.reshape(-1, particles, n).sum(0).mean(0)


def elbo_of_globals(draws: Draws) -> Array:
    """The bound's terms of the sites outside the data plate, a scalar averaged over particles."""
    total = jnp.zeros(())
    for sign, sites in ((1.0, draws.model), (-1.0, draws.guide)):
        for site in sites.values():
            if site.local or (sign < 0 and site.observed):
                continue
            if site.scored or site.enum_dim is not None:
                raise ValueError(
                    f"site {site.name!r} should be reparametrised or lie in the data plate, was a "
                    f"global {_kind(site)}: use another numpyro.infer.ELBO"
                )
            term = (site.scale * site.log_prob).sum((-2, -1)) / site.log_prob.shape[-2]
            total = total + sign * term.sum()
    return total


def _log_joint(draws: Draws, leave_out: set[str]) -> Array:
    """log p(x, z) of each particle and datum, sites that only the model enumerates summed out."""
    sites = [site for site in draws.model.values() if site.local and site.name not in leave_out]
    only_model = [site for site in sites if site.enum_dim is not None]
    only_model = [site for site in only_model if site.name not in draws.guide]
    if not only_model:
        return _sum(site.scale * site.log_prob for site in sites)
    if leave_out:
        raise ValueError(
            "analytic_kl should be False for a model that enumerates sites which the guide leaves "
            f"out ({[site.name for site in only_model]}), was True"
        )
    scale, mask = sites[0].scale, sites[0].mask
    if not all(_same(site.scale, scale) and _same(site.mask, mask) for site in sites):
        raise ValueError(
            "all sites should have one scale and mask where the model sums over some of them"
        )
    dims = tuple(site.enum_dim for site in only_model if site.enum_dim is not None)
    joint = _sum(site.log_prob for site in sites)
    # The mask once more: a masked datum's sum over C classes is log C, where it should be nothing.
    masked: Array = scale_and_mask(logsumexp(joint, axis=dims, keepdims=True), mask=mask)
    return scale * masked


def _kl(site: Site, draws: Draws, max_plate_nesting: int) -> Array:
    """KL(q || p) of a latent site in closed form, shape (..., K, N)."""
    prior = draws.model[site.name]
    if not (_same(site.scale, prior.scale) and _same(site.mask, prior.mask)):
        raise ValueError(
            f"site {site.name!r} should have one scale and mask in model and guide for a closed "
            "form of its KL divergence: use analytic_kl=False"
        )
    try:
        kl = kl_divergence(peel(site.fn)[0], peel(prior.fn)[0])
    except NotImplementedError as error:
        raise ValueError(
            f"analytic_kl should be False: site {site.name!r} has no closed form of "
            f"KL({_kind(site)} || {_kind(prior)})"
        ) from error
    shape = jnp.broadcast_shapes(site.fn.batch_shape, prior.fn.batch_shape)
    return per_datum(scale_and_mask(jnp.broadcast_to(kl, shape), mask=site.mask), max_plate_nesting)


def _kind(site: Site) -> str:
    return type(peel(site.fn)[0]).__name__


def _same(a: Any, b: Any) -> bool:
    arrays = [isinstance(value, jax.Array | np.ndarray) for value in (a, b)]
    if a is b or not any(arrays):
        return a is b or bool(a == b)
    # What jit traces has no values to compare.
    traced = any(isinstance(value, jax.core.Tracer) for value in (a, b))
    return all(arrays) and not traced and np.array_equal(a, b)


def _sum(terms: Iterable[Array]) -> Array:
    return reduce(jnp.add, terms, jnp.zeros((1, 1)))  # of one particle and one datum
