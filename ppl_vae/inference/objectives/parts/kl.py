"""KL divergences of latent sites from their priors, in closed form."""

import torch
import torch.nn.functional as F
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
    kl_divergence,
)

from ppl_vae.inference.draws import Draws, Site, per_datum
from ppl_vae.inference.objectives.parts.equality import same


def closed_kl(site: Site, draws: Draws, max_plate_nesting: int) -> Tensor:
    """Compute KL(q || p) of a latent site in closed form, shape (..., K, N)."""
    prior = draws.model[site.name]
    if not (same(site.scale, prior.scale) and same(site.mask, prior.mask)):
        raise ValueError(
            f"site {site.name!r} should have one scale and mask in model and guide for a closed "
            "form of its KL divergence: use analytic_kl=False"
        )
    kl = divergence(site.name, site.fn, prior.fn)
    return per_datum(scale_and_mask(kl, mask=site.mask), max_plate_nesting)


def divergence(name: str, q: Distribution, p: Distribution) -> Tensor:
    of_logits = _of_logits(q, p)
    if of_logits is not None:
        return of_logits
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError as error:
        raise ValueError(
            f"analytic_kl should be False: site {name!r} has no closed form of "
            f"KL({type(q).__name__} || {type(p).__name__})"
        ) from error
    return kl


def _of_logits(q: Distribution, p: Distribution) -> Tensor | None:
    """Compute KL(q || p) of discrete distributions from their logits; return None for others.

    torch's own is infinite where a probability underflows to 0, although its log is finite.
    """
    if isinstance(q, Independent) and isinstance(p, Independent):
        dims = q.reinterpreted_batch_ndims
        kl = _of_logits(q.base_dist, p.base_dist) if dims == p.reinterpreted_batch_ndims else None
        return None if kl is None else kl.sum(tuple(range(-dims, 0))) if dims else kl
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        ones = F.logsigmoid(q.logits) - F.logsigmoid(p.logits)
        zeros = F.logsigmoid(-q.logits) - F.logsigmoid(-p.logits)
        return q.probs * ones + torch.sigmoid(-q.logits) * zeros
    if isinstance(q, Categorical) and isinstance(p, Categorical):
        return _of_classes(q, p)
    if isinstance(q, OneHotCategorical) and isinstance(p, OneHotCategorical):
        return _of_classes(q, p)
    return None


def _of_classes(q: Categorical | OneHotCategorical, p: Categorical | OneHotCategorical) -> Tensor:
    terms: Tensor = q.probs * (q.logits - p.logits)
    return terms.masked_fill(q.probs == 0, 0.0).sum(-1)
