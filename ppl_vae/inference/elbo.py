"""The evidence lower bound, with exact sums over enumerated sites."""

import copy
from functools import reduce
from typing import Any, Self

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.checks import check_at_least
from ppl_vae.inference.draws import Draws, Program, Site, draw, per_datum
from ppl_vae.inference.objective import Objective
from ppl_vae.schedules import Schedule


class ELBO(Objective):
    """-ELBO = -E_q[log p(x, z) - log q(z | x)], with k particles, summed over the data.

    Sites marked `infer={"enumerate": "parallel"}` are summed over exactly: in the guide as
    sum_y q(y | x) (...), and, if the guide leaves them out, in the model as
    log sum_y p(x, y, z). Gradients are by reparametrisation; for latents that have none, unmarked
    discrete ones among them, by the score function, unbiased but of a large variance.

    With `beta` or `free_bits` it is trained by another loss,
    -E_q[log p(x | z)] + beta sum_sites max(free_bits, mean_batch KL(q || p)), and measured (in
    `mean_loss` and in the validation of `fit`) without them.

    References:
        Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114, equations 2-3
        (and 10 for `analytic_kl`); Ranganath, Gerrish & Blei, "Black box variational inference",
        2014, arXiv:1401.0118, equation 2 (score function).
        Higgins et al., "beta-VAE", ICLR 2017, equation 4 (a constant beta); Sønderby et al.,
        "Ladder variational autoencoders", 2016, arXiv:1602.02282, section 2.3 (warm-up); Kingma et
        al., "Improving variational inference with inverse autoregressive flow", 2016,
        arXiv:1606.04934, appendix C.8 (free bits).

    Args:
        k: Number of particles, whose average is taken.
        analytic_kl: KL(q(z | x) || p(z)) in closed form for each latent site in the data plate,
            where the default uses log q - log p at the draw.
        beta: Weight of log p(z) - log q(z | x) of every latent site, a number or a `Warmup` that
            `fit` advances.
        free_bits: lambda, in nats: the KL term of each latent site in the data plate, averaged over
            the batch, counts as max(lambda, KL). It is that of the draws
            (of `analytic_kl`, the closed forms), whose noise makes the maximum larger on average.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) a closed form is asked for and there is none for a site; beta is a
            `Warmup` and the epoch is not known; beta or free bits are asked for and what they are
            of cannot be told from the rest (see the message).
    """

    def __init__(
        self,
        k: int = 1,
        analytic_kl: bool = False,
        *,
        beta: float | Schedule = 1.0,
        free_bits: float = 0.0,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        if not isinstance(beta, Schedule):
            check_at_least("beta", beta, 0)
        check_at_least("free_bits", free_bits, 0)
        self.analytic_kl, self.beta, self.free_bits = analytic_kl, beta, free_bits

    def at(self, epoch: Any) -> Self:
        if not isinstance(self.beta, Schedule):
            return self
        return self._with(self.beta(epoch), self.free_bits)

    def measured(self) -> Self:
        return self._with(1.0, 0.0)

    def _with(self, beta: float, free_bits: float) -> Self:
        changed = copy.copy(self)
        changed.beta, changed.free_bits = beta, free_bits
        return changed

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        nesting = self.max_plate_nesting
        draws = draw(model, guide, *data, k=self.k, max_plate_nesting=nesting, **kwargs)
        settings: dict[str, Any] = {"analytic_kl": self.analytic_kl, "max_plate_nesting": nesting}
        beta = self.beta
        if isinstance(beta, Schedule):
            raise ValueError(
                "beta should be a number where no epoch is known, was a "
                f"{type(beta).__name__}: fit knows the epoch, elsewhere use objective.at(epoch)"
            )
        local = elbo_per_datum(draws, beta=beta, **settings)
        loss = -(local.sum() + elbo_of_globals(draws, beta=beta))
        if self.free_bits > 0:
            loss = loss + beta * _below(self.free_bits, draws, **settings)
        return loss


def elbo_per_datum(
    draws: Draws, *, analytic_kl: bool = False, beta: float = 1.0, max_plate_nesting: int = 1
) -> Tensor:
    """The bound of each datum, shape (N,), its gradient unbiased; sites in the data plate only."""
    guide = [site for site in draws.guide.values() if site.local and not site.observed]
    closed = [site for site in guide if analytic_kl and site.enum_dim is None]
    open_names = {site.name for site in guide} - {site.name for site in closed}
    log_w = _log_joint(draws, beta, leave_out={site.name for site in closed})
    for site in guide:
        if site.name in open_names:
            log_w = log_w - beta * site.scale * site.log_prob
        else:
            log_w = log_w - beta * site.scale * _kl(site, draws, max_plate_nesting)
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


def elbo_of_globals(draws: Draws, *, beta: float = 1.0) -> Tensor:
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
            weight = 1.0 if site.observed else beta
            total = total.to(term) + sign * weight * term.sum()
    return total


def _below(free_bits: float, draws: Draws, *, analytic_kl: bool, max_plate_nesting: int) -> Tensor:
    """What the KL terms lack of free_bits: max(lambda, KL) = KL + max(0, lambda - KL)."""
    total = torch.zeros(())
    for site in draws.guide.values():
        if not site.local or site.observed:
            continue
        prior = draws.model[site.name]
        if site.scored or site.enum_dim is not None:
            raise ValueError(
                f"free_bits should be 0 for latents that are not reparametrised, was {free_bits:g}"
                f" with the site {site.name!r}"
            )
        if not all(same(s.scale, 1.0) and same(s.mask, None) for s in (site, prior)):
            raise ValueError(
                f"free_bits should be 0 for sites with a scale or a mask, was {free_bits:g} with "
                f"the site {site.name!r}"
            )
        kl = site.log_prob - prior.log_prob
        if analytic_kl:
            kl = _kl(site, draws, max_plate_nesting)
        total = total + kl.shape[-1] * (free_bits - kl.mean()).clamp(min=0)
    return total


def _log_joint(draws: Draws, beta: float, leave_out: set[str]) -> Tensor:
    """log p(x, z) of each particle and datum, sites that only the model enumerates summed out."""
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
    # The mask once more: a masked datum's sum over C classes is log C, where it should be nothing.
    masked: Tensor = scale_and_mask(joint.logsumexp(dims, keepdim=True), mask=mask)
    return scale * masked


def _kl(site: Site, draws: Draws, max_plate_nesting: int) -> Tensor:
    """KL(q || p) of a latent site in closed form, shape (..., K, N)."""
    prior = draws.model[site.name]
    if not (same(site.scale, prior.scale) and same(site.mask, prior.mask)):
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


def same(a: Any, b: Any) -> bool:
    """Whether two scales or two masks, numbers or arrays, are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def _sum(terms: Any) -> Tensor:
    # Without dimensions, so that it lies beside tensors of any device.
    return reduce(torch.add, terms, torch.zeros(()))
