"""The terms of the evidence lower bound, for each datum and for global sites."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.inference.draws import Draws
from ppl_vae.inference.objectives.parts.equality import same
from ppl_vae.inference.objectives.parts.kl import closed_kl


@dataclass(frozen=True)
class ElboTerms:
    """The factors and terms of the bound of each datum.

    Attributes:
        weight: q of the values that the guide enumerates, (..., K, N), or 1.
        log_w: log p(x, z) - log q(z | x) with scales, (..., K, N).
        score: log q of the draws that are not reparametrised, (..., K, N), or 0.
    """

    weight: Tensor
    log_w: Tensor
    score: Tensor

    def signal(self) -> Tensor:
        """Return the bound of each particle and datum without gradients, (K, N)."""
        return _flat((self.weight * self.log_w).detach())

    def bound(self, baseline: float | Tensor = 0.0) -> Tensor:
        """Return the bound of each datum, (N,), with an unbiased gradient.

        The baseline broadcasts against `signal`.
        """
        bound = self.weight * self.log_w
        if self.score.requires_grad:
            signal = (bound - self.weight * baseline).detach()
            bound = bound + signal * (self.score - self.score.detach())  # (1)
        return _flat(bound).mean(0)


def _flat(bound: Tensor) -> Tensor:
    """Sum over enumerated values: (..., K, N) -> (K, N)."""
    if bound.dim() == 0:  # no site lies in the data plate
        bound = bound.reshape(1, 1)
    particles, n = bound.shape[-2:]
    return bound.reshape(-1, particles, n).sum(0)


def elbo_per_datum(
    draws: Draws, *, analytic_kl: bool = False, beta: float = 1.0, max_plate_nesting: int = 1
) -> Tensor:
    """Compute the bound of each datum from the sites in the data plate, (N,), with an unbiased
    gradient."""
    return elbo_terms(draws, analytic_kl, beta, max_plate_nesting).bound()


def elbo_terms(draws: Draws, analytic_kl: bool, beta: float, max_plate_nesting: int) -> ElboTerms:
    guide = [site for site in draws.guide.values() if site.local and not site.observed]
    closed = {site.name for site in guide if analytic_kl and site.enum_dim is None}
    log_w = _log_joint(draws, beta, leave_out=closed)
    for site in guide:
        if site.name in closed:
            log_w = log_w - beta * site.scale * closed_kl(site, draws, max_plate_nesting)
        else:
            log_w = log_w - beta * site.scale * site.log_prob
    weight = _sum(site.log_prob for site in guide if site.enum_dim is not None).exp()
    return ElboTerms(
        weight, log_w, _sum(site.log_prob for site in guide if site.needs_score_function)
    )


def elbo_of_globals(draws: Draws, *, beta: float = 1.0) -> Tensor:
    """Compute the terms of the sites outside the data plate, a scalar averaged over particles."""
    total = torch.zeros(())
    for sign, sites in ((1.0, draws.model), (-1.0, draws.guide)):
        for site in sites.values():
            if site.local or (sign < 0 and site.observed):
                continue
            if site.needs_score_function or site.enum_dim is not None:
                raise ValueError(
                    f"site {site.name!r} should be reparametrised or lie in the data plate, was a "
                    f"global {type(site.fn).__name__}: use pyro.infer.Trace_ELBO"
                )
            term = (site.scale * site.log_prob).sum((-2, -1)) / site.log_prob.shape[-2]
            weight = 1.0 if site.observed else beta
            total = total.to(term) + sign * weight * term.sum()
    return total


def _log_joint(draws: Draws, beta: float, leave_out: set[str]) -> Tensor:
    """Compute log p(x, z) of each particle and datum, summing over sites that only the model
    enumerates."""
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
    # Masked again: the sum over C classes of a masked datum is log C, and should be 0.
    masked: Tensor = scale_and_mask(joint.logsumexp(dims, keepdim=True), mask=mask)
    return scale * masked


def _sum(terms: Any) -> Tensor:
    # A scalar on the CPU can be added to tensors on any device.
    return reduce(torch.add, terms, torch.zeros(()))
