"""See `ppl_vae.inference.objectives.parts.kl`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution, Independent
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import scale_and_mask

from ppl_vae.numpyro.inference.draws import Draws, Site, per_datum, unwrap
from ppl_vae.shared.objectives.free_bits import FreeBits


def closed_kl(site: Site, draws: Draws, max_plate_nesting: int) -> Array:
    """See `ppl_vae.inference.objectives.parts.kl.closed_kl`."""
    prior = draws.model[site.name]
    if not (same(site.scale, prior.scale) and same(site.mask, prior.mask)):
        raise ValueError(
            f"site {site.name!r} should have one scale and mask in model and guide for a closed "
            "form of its KL divergence: use analytic_kl=False"
        )
    kl = _divergence(site.name, unwrap(site.fn)[0], unwrap(prior.fn)[0])
    shape = jnp.broadcast_shapes(site.fn.batch_shape, prior.fn.batch_shape)
    return per_datum(scale_and_mask(jnp.broadcast_to(kl, shape), mask=site.mask), max_plate_nesting)


def free_bits_penalty(
    free_bits: FreeBits, draws: Draws, *, analytic_kl: bool, max_plate_nesting: int
) -> Array:
    """See `ppl_vae.inference.objectives.parts.kl.free_bits_penalty`."""
    total = jnp.zeros(())
    for site in _latents(free_bits, draws):
        if free_bits.per == "unit":
            kl = _of_units(site, draws, analytic_kl, max_plate_nesting)
        elif analytic_kl:
            kl = closed_kl(site, draws, max_plate_nesting).mean()
        else:
            kl = (site.log_prob - draws.model[site.name].log_prob).mean()
        total = total + site.log_prob.shape[-1] * jnp.maximum(free_bits.nats - kl, 0).sum()
    return total


def _latents(free_bits: FreeBits, draws: Draws) -> Iterator[Site]:
    for site in draws.guide.values():
        if not site.local or site.observed:
            continue
        prior = draws.model[site.name]
        if site.needs_score_function or site.enum_dim is not None:
            raise ValueError(
                "free_bits should be 0 for latents that are not reparametrised, was "
                f"{free_bits.nats:g} with the site {site.name!r}"
            )
        if not all(same(s.scale, 1.0) and same(s.mask, None) for s in (site, prior)):
            raise ValueError(
                f"free_bits should be 0 for sites with a scale or a mask, was {free_bits.nats:g} "
                f"with the site {site.name!r}"
            )
        if prior.log_prob.ndim > 2:
            raise ValueError(
                "free_bits should be 0 for latents whose prior depends on an enumerated site, was "
                f"{free_bits.nats:g} with the site {site.name!r}"
            )
        yield site


def _of_units(site: Site, draws: Draws, analytic_kl: bool, max_plate_nesting: int) -> Array:
    prior = draws.model[site.name]
    q, p = (_univariate(s.name, s.fn) for s in (site, prior))
    if analytic_kl:
        kl = _divergence(site.name, q, p)
    else:
        kl = q.log_prob(site.value) - p.log_prob(site.value)
    batch_shape = jnp.broadcast_shapes(site.fn.batch_shape, prior.fn.batch_shape)
    kl = jnp.broadcast_to(kl, batch_shape + site.fn.event_shape)
    data = -1 - len(site.fn.event_shape)
    particles = range(-kl.ndim, data - max_plate_nesting + 1)
    return kl.mean((*particles, data))


def _univariate(name: str, fn: Distribution) -> Distribution:
    base, _ = unwrap(fn)
    while isinstance(base, Independent):
        base, _ = unwrap(base.base_dist)
    if base.event_shape:
        raise ValueError(
            "free_bits should be per site where units cannot be told apart, was per unit with the "
            f"site {name!r}, a {type(base).__name__}: use FreeBits(nats, per='site')"
        )
    return base


def _divergence(name: str, q: Distribution, p: Distribution) -> Array:
    try:
        kl: Array = kl_divergence(q, p)
    except NotImplementedError as error:
        raise ValueError(
            f"analytic_kl should be False: site {name!r} has no closed form of "
            f"KL({type(q).__name__} || {type(p).__name__})"
        ) from error
    return kl


def same(a: Any, b: Any) -> bool:
    """See `ppl_vae.inference.objectives.parts.kl.same`."""
    arrays = [isinstance(value, jax.Array | np.ndarray) for value in (a, b)]
    if a is b or not any(arrays):
        return a is b or bool(a == b)
    # What jit traces has no values to compare.
    traced = any(isinstance(value, jax.core.Tracer) for value in (a, b))
    return all(arrays) and not traced and np.array_equal(a, b)
