"""The evidence lower bound, with exact sums over enumerated sites."""

import copy
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from ppl_vae.inference.draws import Draws, Program, draw
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.baselines import (
    Baseline,
    centring,
    check_baseline,
    description,
)
from ppl_vae.inference.objectives.parts.kl import closed_kl, free_bits_penalty, same
from ppl_vae.shared.checks import check_at_least, check_flag
from ppl_vae.shared.objectives.free_bits import FreeBits, as_free_bits
from ppl_vae.shared.schedules import Schedule


class ELBO(Objective):
    """-ELBO = -E_q[log p(x, z) - log q(z | x)], with k particles, summed over the data.

    Sites marked `infer={"enumerate": "parallel"}` are summed over exactly: in the guide as
    sum_y q(y | x) (...), and, if the guide leaves them out, in the model as
    log sum_y p(x, y, z). Gradients are by reparametrisation; for latents that have none, unmarked
    discrete ones among them, by the score function, unbiased but of a large variance:

        (l - b) d log q(z | x),    l = log p(x, z) - log q(z | x)                          (1)
        b = 0,    b = c    or    b = c + C(x)                                              (2)

    by `baseline`. The signal l is that of a datum and particle without its scale, and b does not
    depend on z, so it changes the variance alone. After each step c <- 0.9 c + 0.1 mean(l) over
    the draws of the batch, beginning with the first mean (before which c is 0), and the network C
    is trained by the squared rest (l - b)^2, which is no part of the loss that is reported. Data
    that are masked do neither. `fit` and Pyro's SVI do both; `differentiable_loss` alone leaves c
    as it is. The network is trained in place and is not part of the model.

    With `beta` or `free_bits` it is trained by another loss,
    -E_q[log p(x | z)] + beta sum_sites max(free_bits, mean_batch KL(q || p)), and measured (in
    `mean_loss` and in the validation of `fit`) without them.

    References:
        Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114, equations 2-3
        (and 10 for `analytic_kl`); Ranganath, Gerrish & Blei, "Black box variational inference",
        2014, arXiv:1401.0118, equation 2 (score function).
        Mnih & Gregor, "Neural variational inference and learning in belief networks", ICML 2014,
        arXiv:1402.0030 (2, "NVIL").
        Higgins et al., "beta-VAE", ICLR 2017, equation 4 (a constant beta); Sønderby et al.,
        "Ladder variational autoencoders", 2016, arXiv:1602.02282 (warm-up); Kingma et
        al., "Improving variational inference with inverse autoregressive flow", 2016,
        arXiv:1606.04934, appendix C.8 (free bits).

    Differs from the paper:
        NVIL also divides the signal by a running estimate of its standard deviation and gives each
        layer of latents a signal of its own; here there is one signal, in nats.

    Args:
        k: Number of particles, whose average is taken.
        analytic_kl: KL(q(z | x) || p(z)) in closed form for each latent site in the data plate,
            where the default uses log q - log p at the draw.
        baseline: b: None, "average", or a `torch.nn.Module` C that is called with the arguments of
            the programs and gives a number for each datum, shape (N,) or (N, 1): `BaselineNet`.
        beta: Weight of log p(z) - log q(z | x) of every latent site, a number or a `Warmup` that
            `fit` advances.
        free_bits: lambda, in nats: the KL term of each latent site in the data plate, averaged over
            the batch, counts as max(lambda, KL); or a `FreeBits`, which may be per unit. It is that
            of the draws (of `analytic_kl`, the closed forms), whose noise makes the maximum larger
            on average.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) a closed form is asked for and there is none for a site; beta is a
            `Warmup` and the epoch is not known; a baseline, beta or free bits are asked for and
            there is nothing they are for, or it cannot be told from the rest (see the message).
    """

    def __init__(
        self,
        k: int = 1,
        analytic_kl: bool = False,
        *,
        baseline: Baseline = None,
        beta: float | Schedule = 1.0,
        free_bits: float | FreeBits = 0.0,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_flag("analytic_kl", analytic_kl)
        check_baseline(baseline)
        if not isinstance(beta, Schedule):
            check_at_least("beta", beta, 0)
        as_free_bits(free_bits)
        self.analytic_kl, self.beta, self.free_bits = analytic_kl, beta, free_bits
        self.baseline = baseline
        self.network = description(baseline)  # a resumed run is compared by such plain attributes
        self._state = self.state()

    def networks(self) -> dict[str, nn.Module]:
        return {"baseline": self.baseline} if isinstance(self.baseline, nn.Module) else {}

    def state(self) -> dict[str, Tensor]:
        """c, NaN before the first step, if there is a baseline."""
        return {} if self.baseline is None else {"baseline": torch.tensor(torch.nan)}

    def at(self, epoch: Any) -> Self:
        return self._with(beta=self.beta(epoch)) if isinstance(self.beta, Schedule) else self

    def for_evaluation(self) -> Self:
        return self._with(baseline=None, beta=1.0, free_bits=0.0)

    def _with(self, **changes: Any) -> Self:
        changed = copy.copy(self)
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        return self.loss_and_state(model, guide, *data, **kwargs)[0]

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta = self.beta
        if isinstance(beta, Schedule):
            raise ValueError(
                "beta should be a number where no epoch is known, was a "
                f"{type(beta).__name__}: fit knows the epoch, elsewhere use objective.at(epoch)"
            )
        nesting = {"max_plate_nesting": self.max_plate_nesting}
        draws = draw(model, guide, *data, k=self.k, **nesting, **kwargs)
        free_bits = as_free_bits(self.free_bits)
        _check_weighed(draws, beta, free_bits)
        terms = _terms(draws, self.analytic_kl, beta, self.max_plate_nesting)
        loss, state = -elbo_of_globals(draws, beta=beta), {}
        if self.baseline is None:
            loss = loss - terms.bound().sum()
        else:
            average = self._state["baseline"]
            centre = centring(draws, self.baseline, average, *data, **nesting, **kwargs)
            signal = terms.signal()
            loss = loss - terms.bound(centre.baseline).sum() + centre.error(signal)
            state = {"baseline": centre.next_average(signal)}
        if free_bits.nats > 0:
            settings = {"analytic_kl": self.analytic_kl, **nesting}
            loss = loss + beta * free_bits_penalty(free_bits, draws, **settings)
        return loss, state


def _check_weighed(draws: Draws, beta: Any, free_bits: FreeBits) -> None:
    """There is a KL term for what is asked of it."""
    if any(not site.observed for site in draws.guide.values()):
        return
    for name, given in (("beta", not same(beta, 1.0)), ("free_bits", free_bits.nats > 0)):
        if given:
            raise ValueError(
                f"{name} should be left out for a guide that draws no latent site, of which there "
                "is no KL term to weigh"
            )


@dataclass(frozen=True)
class _Terms:
    """What the bound of each datum is made of.

    Attributes:
        weight: q of the values that the guide enumerates, (..., K, N), or 1.
        log_w: log p(x, z) - log q(z | x) with scales, (..., K, N).
        score: log q of the draws that are not reparametrised, (..., K, N), or 0.
    """

    weight: Tensor
    log_w: Tensor
    score: Tensor

    def signal(self) -> Tensor:
        """The bound of each particle and datum, numbers alone, (K, N)."""
        return _flat((self.weight * self.log_w).detach())

    def bound(self, baseline: float | Tensor = 0.0) -> Tensor:
        """The bound of each datum, (N,), its gradient unbiased; baseline as `signal`."""
        bound = self.weight * self.log_w
        if self.score.requires_grad:
            signal = (bound - self.weight * baseline).detach()
            bound = bound + signal * (self.score - self.score.detach())  # (1)
        return _flat(bound).mean(0)


def _flat(bound: Tensor) -> Tensor:
    """(K, N) of (..., K, N), enumerated values summed over."""
    if bound.dim() == 0:  # no site lies in the data plate
        bound = bound.reshape(1, 1)
    particles, n = bound.shape[-2:]
    return bound.reshape(-1, particles, n).sum(0)


def elbo_per_datum(
    draws: Draws, *, analytic_kl: bool = False, beta: float = 1.0, max_plate_nesting: int = 1
) -> Tensor:
    """The bound of each datum, shape (N,), its gradient unbiased; sites in the data plate only."""
    return _terms(draws, analytic_kl, beta, max_plate_nesting).bound()


def _terms(draws: Draws, analytic_kl: bool, beta: float, max_plate_nesting: int) -> _Terms:
    guide = [site for site in draws.guide.values() if site.local and not site.observed]
    closed = {site.name for site in guide if analytic_kl and site.enum_dim is None}
    log_w = _log_joint(draws, beta, leave_out=closed)
    for site in guide:
        if site.name in closed:
            log_w = log_w - beta * site.scale * closed_kl(site, draws, max_plate_nesting)
        else:
            log_w = log_w - beta * site.scale * site.log_prob
    weight = _sum(site.log_prob for site in guide if site.enum_dim is not None).exp()
    return _Terms(weight, log_w, _sum(site.log_prob for site in guide if site.needs_score_function))


def elbo_of_globals(draws: Draws, *, beta: float = 1.0) -> Tensor:
    """The bound's terms of the sites outside the data plate, a scalar averaged over particles."""
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


def _sum(terms: Any) -> Tensor:
    # Without dimensions, so that it lies beside tensors of any device.
    return reduce(torch.add, terms, torch.zeros(()))
