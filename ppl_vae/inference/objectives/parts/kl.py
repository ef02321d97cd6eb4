"""The divergence of latent sites from their priors: closed forms, and how much of it is free."""

from collections.abc import Iterator
from typing import Any

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

from ppl_vae.inference.batch_sums import mean_of_batch
from ppl_vae.inference.draws import Draws, Site, per_datum
from ppl_vae.shared.objectives.free_bits import FreeBits


def closed_kl(site: Site, draws: Draws, max_plate_nesting: int) -> Tensor:
    """KL(q || p) of a latent site in closed form, shape (..., K, N)."""
    prior = draws.model[site.name]
    if not (same(site.scale, prior.scale) and same(site.mask, prior.mask)):
        raise ValueError(
            f"site {site.name!r} should have one scale and mask in model and guide for a closed "
            "form of its KL divergence: use analytic_kl=False"
        )
    kl = _divergence(site.name, site.fn, prior.fn)
    return per_datum(scale_and_mask(kl, mask=site.mask), max_plate_nesting)


def free_bits_penalty(
    free_bits: FreeBits, draws: Draws, *, analytic_kl: bool, max_plate_nesting: int
) -> Tensor:
    """What the KL terms lack of free_bits: max(lambda, KL) = KL + max(0, lambda - KL)."""
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
    """The sites whose terms have free bits, which are a plain mean over the batch."""
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
    """KL(q || p) of each unit, averaged over particles and data: (..., 1, *event_shape)."""
    q, p = (_univariate(s.name, s.fn) for s in (site, draws.model[site.name]))
    if analytic_kl:
        kl = _divergence(site.name, q, p)
    else:
        kl = q.log_prob(site.value) - p.log_prob(site.value)
    data = -1 - len(site.fn.event_shape)
    particles = range(-kl.dim(), data - max_plate_nesting + 1)
    return mean_of_batch(kl, (*particles, data))


def _univariate(name: str, fn: Distribution) -> Distribution:
    """The distribution of all units, which are independent of one another."""
    base = fn
    while isinstance(base, Independent):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            "free_bits should be per site where units cannot be told apart, was per unit with the "
            f"site {name!r}, a {type(base).__name__}: use FreeBits(nats, per='site')"
        )
    return base


def _divergence(name: str, q: Distribution, p: Distribution) -> Tensor:
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
    """KL(q || p) of discrete distributions, None of others.

    torch's own is infinite where a probability is 0 in floating point, though its log is finite.
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


def same(a: Any, b: Any) -> bool:
    """Whether two scales or two masks, numbers or arrays, are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
