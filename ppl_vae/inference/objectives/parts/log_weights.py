"""Log importance weights log p(x, z) - log q(z | x), for K particles and N data."""

from functools import reduce

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.inference.draws import Draws, Site
from ppl_vae.inference.objectives.parts.equality import same


def log_weights(draws: Draws) -> Tensor:
    """Compute log p(x, z_i) - log q(z_i | x) of each particle and datum, without scales, (K, N).

    Enumerated sites are summed out of both: their values are not drawn from the guide.

    Raises:
        ValueError: A site lies outside the data plate, or enumerated sites have their own masks.
    """
    for site in (*draws.model.values(), *draws.guide.values()):
        if not site.local:
            raise ValueError(
                f"site {site.name!r} should lie in the data plate, but it belongs to all data: "
                "use ELBO, which is a bound for all data together"
            )
    terms = [site.log_prob for site in draws.model.values()]
    log_w = reduce(torch.add, [*terms, *(-site.log_prob for site in latents(draws))])
    particles, n = log_w.shape[-2:]
    summed = log_w.reshape(-1, particles, n).logsumexp(0)
    sites = (*draws.model.values(), *draws.guide.values())
    enumerated = [site for site in sites if site.enum_dim is not None]
    if all(same(site.mask, None) for site in enumerated):
        return summed
    mask = enumerated[0].mask
    if not all(same(site.mask, mask) for site in (*draws.model.values(), *latents(draws))):
        raise ValueError("all sites should have one mask where one that is summed over has a mask")
    # Masked again: the sum over C classes of a masked datum is log C, and should be 0.
    masked: Tensor = scale_and_mask(summed, mask=mask)
    return masked


def latents(draws: Draws) -> list[Site]:
    """Return the sites that the guide drew: neither observed nor enumerated."""
    return [s for s in draws.guide.values() if not s.observed and s.enum_dim is None]


def log_guide(draws: Draws) -> Tensor:
    """Compute log q(z_i | x) of each particle and datum, without scales, (K, N)."""
    return sum((site.log_prob for site in latents(draws)), start=torch.zeros(()))


def scale_of(draws: Draws) -> Tensor:
    """Return the common scale of all sites, by which the bound of a datum is multiplied.

    Returns:
        A scalar, or shape (N,).

    Raises:
        ValueError: Sites have different scales, for which multi-sample bounds are not defined.
    """
    sites = [*draws.model.values(), *(s for s in draws.guide.values() if not s.observed)]
    first = sites[0]
    for site in sites:
        if not same(site.scale, first.scale):
            raise ValueError(
                f"all sites should have one scale, that of a datum's bound, had {first.scale} "
                f"({first.name!r}) and {site.scale} ({site.name!r}): use ELBO"
            )
    scale = torch.as_tensor(first.scale, device=first.log_prob.device)
    if scale.dim() > 1 and scale.numel() != scale.shape[-1]:
        raise ValueError(
            f"scale should be a number or one for each datum, had shape {tuple(scale.shape)}"
        )
    return scale.reshape(scale.shape[-1:])


def check_per_datum(draws: Draws) -> None:
    """Check that a multi-sample bound is defined for each datum and trains the whole guide.

    Raises:
        ValueError: The guide enumerates a site, or draws none.
    """
    for site in draws.guide.values():
        if site.enum_dim is not None:
            raise ValueError(
                f"site {site.name!r} should not be enumerated by the guide, whose "
                f"q({site.name} | x) this bound would not train: use ELBO"
            )
    if not latents(draws) and all(site.enum_dim is None for site in draws.model.values()):
        raise ValueError("guide should draw a latent site for each datum, drew none: use ELBO")


def check_reparametrised(draws: Draws) -> None:
    """Check that every draw of the guide is reparametrised.

    Raises:
        ValueError: One is not.
    """
    for site in latents(draws):
        if site.needs_score_function:
            raise ValueError(
                f"site {site.name!r} should be reparametrised, was drawn from a "
                f"{type(site.fn).__name__}: use IWAE"
            )
