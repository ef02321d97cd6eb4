"""The evidence lower bound."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from ppl_vae.inference.draws import Draws, Program, draw
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.baselines import (
    Baseline,
    centring,
    check_baseline,
    description,
)
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_of_globals, elbo_terms
from ppl_vae.inference.objectives.parts.equality import same
from ppl_vae.inference.objectives.parts.free_bits import free_bits_penalty
from ppl_vae.shared.checks import check_at_least, check_flag
from ppl_vae.shared.objectives.free_bits import FreeBits, as_free_bits
from ppl_vae.shared.schedules import Schedule


class ELBO(Objective):
    """Negative evidence lower bound with K particles, exact sums over enumerated sites, optional
    baselines for score-function gradients, a weight (beta) on the KL terms, and free bits.

        loss = -E_q[log p(x, z) - log q(z | x)], summed over the data

    Sites marked `infer={"enumerate": "parallel"}` are summed over exactly: in the guide as
    sum_y q(y | x) (...), and, if the guide leaves them out, in the model as
    log sum_y p(x, y, z). Latents are reparametrised where possible. Other latents, such as discrete
    ones that are not enumerated, have score-function gradients, unbiased with a large variance:

        (l - b) d log q(z | x),    l = log p(x, z) - log q(z | x)                          (1)
        b = 0,    b = c    or    b = c + C(x)                                              (2)

    where `baseline` selects b. The learning signal l is computed per datum and particle, without
    scales; b does not depend on z, so it changes the variance only. After each step
    c <- 0.9 c + 0.1 mean(l) over the draws of the batch (c starts as the first mean), and the
    network C minimises (l - b)^2, which is not part of the reported loss. Masked data contribute to
    neither. `fit` and Pyro's SVI update c and C; `differentiable_loss` does not update c. The
    network is trained in place and is not part of the model.

    With `beta` or `free_bits` the training loss is
    -E_q[log p(x | z)] + beta sum_sites max(free_bits, mean_batch KL(q || p)); evaluation
    (`mean_loss` and the validation of `fit`) uses neither.

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
        NVIL also divides the signal by a running estimate of its standard deviation and has a
        separate signal for each layer of latents; here there is one signal, in nats.

    Args:
        k: Number of particles to average over.
        analytic_kl: Whether to use KL(q(z | x) || p(z)) in closed form for each latent site in the
            data plate, instead of log q - log p at the draw.
        baseline: b: None, "average", or a `torch.nn.Module` C (`BaselineNet`) that is called with
            the arguments of the programs and returns shape (N,) or (N, 1).
        beta: Weight of the KL term of every latent site: a number, or a schedule such as `Warmup`
            that `fit` advances.
        free_bits: Lower bound lambda, in nats, on the KL term of each latent site in the data
            plate, averaged over the batch: max(lambda, KL); or a `FreeBits`, which may apply per
            unit. KL is estimated from the draws (or by `analytic_kl`); its noise biases the maximum
            upwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: An argument is invalid; (when used) a site has no closed-form KL; beta is a
            schedule and the epoch is not known; a baseline, beta or free bits apply to no site, or
            to sites with incompatible scales or masks.
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
        """Return c, NaN before the first step, if there is a baseline."""
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
        terms = elbo_terms(draws, self.analytic_kl, beta, self.max_plate_nesting)
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
    """Check that there is a KL term for `beta` and `free_bits`."""
    if any(not site.observed for site in draws.guide.values()):
        return
    for name, given in (("beta", not same(beta, 1.0)), ("free_bits", free_bits.nats > 0)):
        if given:
            raise ValueError(
                f"{name} should be left out for a guide that draws no latent site, and so "
                "has no KL term"
            )
