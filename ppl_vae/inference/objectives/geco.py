"""The evidence lower bound under a constraint on the reconstruction error."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, Self

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.inference.batch_sums import mean_of_batch
from ppl_vae.inference.draws import Program, draw
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.shared.objectives.geco import (
    LARGEST,
    LARGEST_STEP,
    Update,
    check_settings,
    check_sites,
    independent_of,
)


class GECO(Objective):
    """Smallest KL subject to a bound on the reconstruction error, by an inverse Lagrange multiplier
    beta that training updates.

        minimise E_q[log q(z | x) - log p(z)]  such that  E_q[-log p(x | z)] <= tolerance

    The loss is C + beta KL with C = -log p(x | z) and beta the inverse of the multiplier. After
    each step, with delta the moving average of C minus the tolerance,

        "geco":  beta <- beta exp(-rate delta)                                              (1)
        "rewo":  beta <- beta exp(rate f(beta, delta) delta),                               (2)
                 f(beta, delta) = tanh(tau (beta - 1)) where delta <= 0, and -1 elsewhere

    so that (2) decreases beta while the constraint is violated and moves it to 1 while it holds,
    where the loss is the evidence bound. Until C is within the tolerance for the first time, (2)
    keeps beta at `start`.

    With `inner`, latent sites that only serve the prior of the others, log p(z) is the bound

        log 1/k sum_i p(z | zeta_i) p(zeta_i) / q(zeta_i | z),    zeta_i ~ q(zeta | z)      (3)

    with k draws of `inner` for one draw of the others. Evaluation uses beta = 1, the negative
    evidence bound. In Pyro's SVI every step updates the beta of this instance.

    References:
        Rezende & Viola, "Taming VAEs", 2018, arXiv:1810.00597, algorithm 1 (1); Klushyn, Chen,
        Kurle, Cseke & van der Smagt, "Learning hierarchical priors in VAEs", NeurIPS 2019,
        arXiv:1905.04982, algorithm 1 (2, "REWO"; 3 is its bound of the prior).

    Differs from the paper:
        A step uses the beta of the steps before it.
        The second paper fixes the networks of the prior until the constraint holds for the first
        time; here they are trained from the first step.
        log beta changes by at most 0.1 in a step, and beta stays within 1e-6 and 1e6.

    Args:
        tolerance: Bound on E[-log p(x | z)] per datum, summed over observed sites, in nats.
        k: Number of draws of `inner`; without `inner`, number of particles to average over.
        inner: Names of the latent sites of the prior; observed sites must not depend on them.
        update: Update rule of beta, "rewo" or "geco".
        start: Initial beta.
        rate: Step size of log beta, per nat of delta.
        tau: Slope of (2) for beta near 1.
        decay: Decay of the moving average.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: An argument is invalid; (when used) a site is enumerated or not reparametrised,
            has a scale or lies outside the data plate.
    """

    def __init__(
        self,
        tolerance: float,
        *,
        k: int = 1,
        inner: Sequence[str] = (),
        update: Update = "rewo",
        start: float = 0.01,
        rate: float = 0.01,
        tau: float = 1.0,
        decay: float = 0.99,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        positive = {"start": start, "rate": rate, "tau": tau}
        self.inner = check_settings(tolerance, inner, update, decay, **positive)
        self.tolerance, self.update = tolerance, update
        self.start, self.rate, self.tau, self.decay = start, rate, tau, decay
        self._state = self.state()

    def state(self) -> dict[str, Tensor]:
        """Return beta, the moving average of C (NaN at first) and whether the bound was met."""
        numbers = {"beta": self.start, "reconstruction": math.nan, "reached": 0.0}
        return {name: torch.tensor(value) for name, value in numbers.items()}

    def for_evaluation(self) -> Self:
        return self.with_state({**self.state(), "beta": torch.tensor(1.0)})

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        return self.loss_and_state(model, guide, *data, **kwargs)[0]

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        reconstruction, kl = self.per_datum(model, guide, *data, **kwargs)
        loss = (reconstruction + self._state["beta"].to(kl.device) * kl).sum()
        return loss, self._next(mean_of_batch(reconstruction.detach()))

    def _next(self, reconstruction: Tensor) -> dict[str, Tensor]:
        """Compute the state after a step with this mean of C over its batch."""
        old = {name: value.to(reconstruction.device) for name, value in self._state.items()}
        beta, average = old["beta"], old["reconstruction"]
        average = torch.where(
            average.isnan(),
            reconstruction,
            self.decay * average + (1 - self.decay) * reconstruction,
        )
        delta = average - self.tolerance
        reached = torch.where(delta <= 0, 1.0, old["reached"])
        change = -delta  # (1)
        if self.update == "rewo":
            towards_1 = torch.tanh(self.tau * (beta - 1)) * delta
            change = reached * torch.where(delta <= 0, towards_1, -delta)  # (2)
        step = (self.rate * change).clamp(-LARGEST_STEP, LARGEST_STEP)
        beta = (beta.log() + step).clamp(-LARGEST, LARGEST).exp()
        new = {"beta": beta, "reconstruction": average, "reached": reached}
        return {name: value.to(old[name]) for name, value in new.items()}

    def per_datum(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Compute -log p(x | z), and log q(z | x) minus the bound of log p(z): (N,) each."""
        settings = {"max_plate_nesting": self.max_plate_nesting, **kwargs}
        draws = draw(model, guide, *data, k=1 if self.inner else self.k, **settings)
        check_sites(draws, self.inner)
        observed = [site for site in draws.model.values() if site.observed]
        outer = [s for s in draws.guide.values() if not (s.observed or s.name in self.inner)]
        log_x, log_q = _sum(observed), _sum(outer)
        if not self.inner:
            log_p = _sum(site for site in draws.model.values() if not site.observed)
            return -log_x.mean(0), (log_q - log_p + torch.zeros_like(log_x)).mean(0)

        values = {site.name: site.value for site in outer}
        dim = -1 - self.max_plate_nesting
        hide_x = independent_of(self.inner, {site.name for site in observed}, dim, hide=True)
        hide_none = independent_of(self.inner, set(values), dim, hide=False)
        prior = poutine.condition(poutine.block(model, hide_fn=hide_x), data=values)
        proposal = poutine.condition(poutine.block(guide, hide_fn=hide_none), data=values)
        again = draw(prior, proposal, *data, k=self.k, **settings)
        drawn = [site for site in again.guide.values() if not site.observed]
        log_w = _sum(again.model.values()) - _sum(drawn)
        return -log_x[0], (log_q - log_w.logsumexp(0) + math.log(self.k)).reshape(-1)  # (3)


def _sum(sites: Any) -> Tensor:
    terms: list[Tensor] = [site.log_prob for site in sites]
    return reduce(torch.add, terms, torch.zeros(()))
