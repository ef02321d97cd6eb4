"""Free bits: a lower bound on the KL terms that are minimised."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
)

from ppl_vae.inference.batch_sums import mean_of_batch
from ppl_vae.inference.draws import Draws, Site
from ppl_vae.inference.objectives.parts.equality import same
from ppl_vae.inference.objectives.parts.kl import closed_kl, divergence
from ppl_vae.shared.objectives.free_bits import FreeBits


def free_bits_penalty(
    free_bits: FreeBits, draws: Draws, *, analytic_kl: bool, max_plate_nesting: int
) -> Tensor:
    """Compute the shortfall of each KL term below its free-bits threshold, summed over terms.

    max(lambda, KL) = KL + max(0, lambda - KL).
    """
    total = torch.zeros(())
    for site in _latents(free_bits, draws):
        if free_bits.per == "unit":
            kl = _of_units(site, draws, analytic_kl, max_plate_nesting)
        elif analytic_kl:
            kl = mean_of_batch(closed_kl(site, draws, max_plate_nesting))
        else:
            kl = mean_of_batch(site.log_prob - draws.model[site.name].log_prob)
        total = total + site.log_prob.shape[-1] * (free_bits.nats - kl).clamp(min=0).sum()
    return total


def _latents(free_bits: FreeBits, draws: Draws) -> Iterator[Site]:
    """Yield the latent sites whose KL term is a plain mean over the batch; refuse others."""
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
        if prior.log_prob.dim() > 2:
            raise ValueError(
                "free_bits should be 0 for latents whose prior depends on an enumerated site, was "
                f"{free_bits.nats:g} with the site {site.name!r}"
            )
        yield site


def _of_units(site: Site, draws: Draws, analytic_kl: bool, max_plate_nesting: int) -> Tensor:
    """Compute KL(q || p) of each unit, averaged over particles and data: (..., 1, *event_shape)."""
    q, p = (_univariate(s.name, s.fn) for s in (site, draws.model[site.name]))
    if analytic_kl:
        kl = divergence(site.name, q, p)
    else:
        kl = q.log_prob(site.value) - p.log_prob(site.value)
    data = -1 - len(site.fn.event_shape)
    particles = range(-kl.dim(), data - max_plate_nesting + 1)
    return mean_of_batch(kl, (*particles, data))


def _univariate(name: str, fn: Distribution) -> Distribution:
    """Return the distribution of the units of a site, which are independent."""
    base = fn
    while isinstance(base, Independent):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            "free_bits should be per site where units are not independent, was per unit with the "
            f"site {name!r}, a {type(base).__name__}: use FreeBits(nats, per='site')"
        )
    return base
