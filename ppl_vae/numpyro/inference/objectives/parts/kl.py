"""See `ppl_vae.inference.objectives.parts.kl`."""

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import scale_and_mask

from ppl_vae.numpyro.inference.draws import Draws, Site, per_datum, unwrap
from ppl_vae.numpyro.inference.objectives.parts.equality import same


def closed_kl(site: Site, draws: Draws, max_plate_nesting: int) -> Array:
    """See `ppl_vae.inference.objectives.parts.kl.closed_kl`."""
    prior = draws.model[site.name]
    if not (same(site.scale, prior.scale) and same(site.mask, prior.mask)):
        raise ValueError(
            f"site {site.name!r} should have one scale and mask in model and guide for a closed "
            "form of its KL divergence: use analytic_kl=False"
        )
    kl = divergence(site.name, unwrap(site.fn)[0], unwrap(prior.fn)[0])
    shape = jnp.broadcast_shapes(site.fn.batch_shape, prior.fn.batch_shape)
    return per_datum(scale_and_mask(jnp.broadcast_to(kl, shape), mask=site.mask), max_plate_nesting)


def divergence(name: str, q: Distribution, p: Distribution) -> Array:
    try:
        kl: Array = kl_divergence(q, p)
    except NotImplementedError as error:
        raise ValueError(
            f"analytic_kl should be False: site {name!r} has no closed form of "
            f"KL({type(q).__name__} || {type(p).__name__})"
        ) from error
    return kl
