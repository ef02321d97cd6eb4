"""See `ppl_vae.inference.objectives.parts.log_weights`."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from numpyro.distributions.util import scale_and_mask

from ppl_vae.numpyro.inference.draws import Draws, Site, unwrap
from ppl_vae.numpyro.inference.objectives.parts.equality import same


def log_weights(draws: Draws) -> Array:
    """See `ppl_vae.inference.objectives.parts.log_weights.log_weights`."""
    for site in (*draws.model.values(), *draws.guide.values()):
        if not site.local:
            raise ValueError(
                f"site {site.name!r} should lie in the data plate, but it belongs to all data: "
                "use ELBO, which is a bound for all data together"
            )
    terms = [site.log_prob for site in draws.model.values()]
    log_w = reduce(jnp.add, [*terms, *(-site.log_prob for site in latents(draws))])
    particles, n = log_w.shape[-2:]
    summed = jnp.asarray(logsumexp(log_w.reshape(-1, particles, n), axis=0))
    sites = (*draws.model.values(), *draws.guide.values())
    enumerated = [site for site in sites if site.enum_dim is not None]
    if all(same(site.mask, None) for site in enumerated):
        return summed
    # Some were broadcast over enumerated values.
    mask = min((site.mask for site in draws.model.values()), key=_dims)
    if not all(_same_mask(site.mask, mask) for site in (*draws.model.values(), *latents(draws))):
        raise ValueError("all sites should have one mask where one that is summed over has a mask")
    # The mask once more: a masked datum's sum over C classes is log C, where it should be nothing.
    masked: Array = scale_and_mask(summed, mask=mask)
    return masked


def _dims(mask: Any) -> int:
    return getattr(mask, "ndim", 0)


def _same_mask(a: Any, b: Any) -> bool:
    arrays = all(isinstance(mask, Array | np.ndarray) for mask in (a, b))
    if not arrays or any(isinstance(mask, jax.core.Tracer) for mask in (a, b)):
        return same(a, b)
    return same(*np.broadcast_arrays(a, b))


def latents(draws: Draws) -> list[Site]:
    """See `ppl_vae.inference.objectives.parts.log_weights.latents`."""
    return [s for s in draws.guide.values() if not s.observed and s.enum_dim is None]


def log_guide(draws: Draws) -> Array:
    """See `ppl_vae.inference.objectives.parts.log_weights.log_guide`."""
    return sum((site.log_prob for site in latents(draws)), start=jnp.zeros((1, 1)))


def scale_of(draws: Draws) -> Array:
    """See `ppl_vae.inference.objectives.parts.log_weights.scale_of`."""
    sites = [*draws.model.values(), *(s for s in draws.guide.values() if not s.observed)]
    first = sites[0]
    for site in sites:
        if not same(site.scale, first.scale):
            raise ValueError(
                f"all sites should have one scale, that of a datum's bound, had {first.scale} "
                f"({first.name!r}) and {site.scale} ({site.name!r}): use ELBO"
            )
    scale = jnp.asarray(first.scale)
    if scale.ndim > 1 and scale.size != scale.shape[-1]:
        raise ValueError(f"scale should be a number or one for each datum, had shape {scale.shape}")
    return scale.reshape(scale.shape[-1:])


def check_per_datum(draws: Draws) -> None:
    """See `ppl_vae.inference.objectives.parts.log_weights.check_per_datum`."""
    for site in draws.guide.values():
        if site.enum_dim is not None:
            raise ValueError(
                f"site {site.name!r} should not be enumerated by the guide, whose "
                f"q({site.name} | x) this bound would not train: use ELBO"
            )
    if not latents(draws) and all(site.enum_dim is None for site in draws.model.values()):
        raise ValueError("guide should draw a latent site for each datum, drew none: use ELBO")


def check_reparametrised(draws: Draws) -> None:
    """See `ppl_vae.inference.objectives.parts.log_weights.check_reparametrised`."""
    for site in latents(draws):
        if site.needs_score_function:
            raise ValueError(
                f"site {site.name!r} should be reparametrised, was drawn from a "
                f"{type(unwrap(site.fn)[0]).__name__}: use IWAE"
            )
