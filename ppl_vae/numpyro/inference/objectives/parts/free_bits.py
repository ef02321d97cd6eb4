"""See `ppl_vae.inference.objectives.parts.free_bits`."""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, Independent

from ppl_vae.numpyro.inference.draws import Draws, Site, unwrap
from ppl_vae.numpyro.inference.objectives.parts.equality import same
from ppl_vae.numpyro.inference.objectives.parts.kl import closed_kl, divergence
from ppl_vae.shared.objectives.free_bits import FreeBits


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
        kl = divergence(site.name, q, p)
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
