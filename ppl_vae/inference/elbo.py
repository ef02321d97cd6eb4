"""The evidence lower bound, with exact sums over enumerated sites."""

from functools import reduce
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.inference.draws import Draws, Program, Site, draw, per_datum
from ppl_vae.inference.objective import Objective


class ELBO(Objective):
    """-ELBO = -E_q[log p(x, z) - log q(z | x)], with k particles, summed over the data.

    Sites marked `infer={"enumerate": "parallel"}` are summed over exactly: in the guide as
    sum_y q(y | x) (...), and, if the guide leaves them out, in the model as
    log sum_y p(x, y, z). Gradients are by reparametrisation; for latents that have none, unmarked
    discrete ones among them, by the score function, unbiased but of a large variance.

    References:
        Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114, equations 2-3
        (and 10 for `analytic_kl`); Ranganath, Gerrish & Blei, "Black box variational inference",
        2014, arXiv:1401.0118, equation 2 (score function).

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
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        nesting = self.max_plate_nesting
        draws = draw(model, guide, *data, k=self.k, max_plate_nesting=nesting, **kwargs)
        local = elbo_per_datum(draws, analytic_kl=self.analytic_kl, max_plate_nesting=nesting)
        return -(local.sum() + elbo_of_globals(draws))


def elbo_per_datum(
    draws: Draws, *, analytic_kl: bool = False, max_plate_nesting: int = 1
) -> Tensor:
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
    weight = _sum(site.log_prob for site in guide if site.enum_dim is not None).exp()
    bound = weight * log_w
    score = _sum(site.log_prob for site in guide if site.scored)
    if score.requires_grad:
        bound = bound + bound.detach() * (score - score.detach())
    if bound.dim() == 0:  # no site lies in the data plate
        bound = bound.reshape(1, 1)
    particles, n = bound.shape[-2:]
    return bound.reshape(-1, particles, n).sum(0).mean(0)


def elbo_of_globals(draws: Draws) -> Tensor:
    """The bound's terms of the sites outside the data plate, a scalar averaged over particles."""
    total = torch.zeros(())
    for sign, sites in ((1.0, draws.model), (-1.0, draws.guide)):
        for site in sites.values():
            if site.local or (sign < 0 and site.observed):
                continue
            if site.scored or site.enum_dim is not None:
                raise ValueError(
                    f"site {site.name!r} should be reparametrised or lie in the data plate, was a "
                    f"global {type(site.fn).__name__}: use pyro.infer.Trace_ELBO"
                )
            term = (site.scale * site.log_prob).sum((-2, -1)) / site.log_prob.shape[-2]
            total = total.to(term) + sign * term.sum()
    return total


def _log_joint(draws: Draws, leave_out: set[str]) -> Tensor:
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
    masked: Tensor = scale_and_mask(joint.logsumexp(dims, keepdim=True), mask=mask)
    return scale * masked


def _kl(site: Site, draws: Draws, max_plate_nesting: int) -> Tensor:
    """KL(q || p) of a latent site in closed form, shape (..., K, N)."""
    prior = draws.model[site.name]
    if not (_same(site.scale, prior.scale) and _same(site.mask, prior.mask)):
        raise ValueError(
            f"site {site.name!r} should have one scale and mask in model and guide for a closed "
            "form of its KL divergence: use analytic_kl=False"
        )
    try:
        kl: Tensor = kl_divergence(site.fn, prior.fn)
    except NotImplementedError as error:
        raise ValueError(
            f"analytic_kl should be False: site {site.name!r} has no closed form of "
            f"KL({type(site.fn).__name__} || {type(prior.fn).__name__})"
        ) from error
    return per_datum(scale_and_mask(kl, mask=site.mask), max_plate_nesting)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def _sum(terms: Any) -> Tensor:
    # Without dimensions, so that it lies beside tensors of any device.
    return reduce(torch.add, terms, torch.zeros(()))
