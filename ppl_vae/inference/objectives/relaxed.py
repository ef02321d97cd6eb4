"""The evidence lower bound with relaxed discrete latents."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.inference.draws import Program, draw
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_of_globals, elbo_per_datum
from ppl_vae.models.distributions.concrete import RELAXATIONS, kind_of, relax
from ppl_vae.shared.checks import check_flag, check_positive
from ppl_vae.shared.objectives.relaxed import (
    check_not_given,
    check_one_kind,
    check_relaxable,
    check_some_discrete,
)
from ppl_vae.shared.schedules import Schedule


class Relaxed(Objective):
    """Negative ELBO with Gumbel-softmax (concrete) relaxations of Bernoulli and categorical latents
    in model and guide.

        loss = -E_{q_t(z | x)}[log p_t(x, z) - log q_t(z | x)]
        Bernoulli(alpha):    z = sigmoid((alpha + L) / t),   L logistic                     (1)
        Categorical(alpha):  z = softmax((alpha + G) / t),   G_1, ..., G_C Gumbel           (2)

    Each Bernoulli and categorical latent of the guide is replaced by (1) or (2) in guide and model,
    at the same temperature t, and is reparametrised; continuous latents are unchanged. The loss is
    a negative bound of the relaxed model's log p_t(x), not of log p(x). As t -> 0 the
    reconstruction term approaches that of the discrete pair and the variance of the gradient grows;
    the divergence of two relaxed variables depends on alpha only and stays above that of the
    discrete ones. Evaluation measures the discrete pair, by `ELBO(k)`.

    Densities are those of logits, for (2) of log z (`concrete`), which stay accurate where z rounds
    to 0 or 1. Model and guide share the change of variables, so log p_t(z) - log q_t(z | x) is the
    same.

    With `hard` (straight-through) programs see the nearest discrete values, 0 and 1 or one-hot
    vectors, with the gradients of z; the densities of the latents are the relaxed ones at z. As
    hard values of (1) and (2) have the discrete distributions, the negative loss is below the ELBO
    of the discrete pair on average. Its gradient is biased.

    Programs see floating-point values in place of 0 and 1, and for a `Categorical` of shape (...)
    one-hot vectors of shape (..., C), as for a `OneHotCategorical`, the natural choice here. They
    must use them as numbers: with Pyro's validation (in `fit` at the first step), a value that the
    loss does not depend on differentiably, such as `z.long()`, is refused.

    Latents that only the model enumerates are summed out exactly. Scales and masks apply as in
    `ELBO`.

    References:
        Maddison, Mnih & Teh, "The concrete distribution: a continuous relaxation of discrete random
        variables", ICLR 2017, arXiv:1611.00712 ((1), (2), and relaxed draws as logits).
        Jang, Gu & Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017,
        arXiv:1611.01144 (annealing, straight-through).

    Differs from the paper:
        Prior and posterior share one temperature; Maddison et al. allow two. The KL term of Jang
        et al., with relaxed draws but discrete distributions, gives a bound of neither model and is
        not used.

    Args:
        temperature: Temperature t > 0, a number or a schedule that `fit` advances, such as
            `ExponentialDecay(1.0, 0.5, epochs)`.
        hard: Whether programs see discrete values.
        k: Number of particles to average over.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: An argument is invalid; (when used) the temperature is a schedule and the epoch
            is not known; the guide has no discrete latent, enumerates one, or has one that is
            neither Bernoulli nor categorical; the model has another kind at its site.
    """

    def __init__(
        self,
        temperature: float | Schedule = 0.5,
        hard: bool = False,
        k: int = 1,
        *,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        if not isinstance(temperature, Schedule):
            check_positive("temperature", temperature)
        check_flag("hard", hard)
        self.temperature, self.hard = temperature, hard

    def at(self, epoch: Any) -> Self:
        if not isinstance(self.temperature, Schedule):
            return self
        changed = copy.copy(self)
        changed.temperature = self.temperature(epoch)
        return changed

    def for_evaluation(self) -> Any:
        return ELBO(self.k, max_plate_nesting=self.max_plate_nesting)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        if isinstance(self.temperature, Schedule):
            raise ValueError(
                "temperature should be a number where no epoch is known, was a "
                f"{type(self.temperature).__name__}: fit knows the epoch, elsewhere use "
                "objective.at(epoch)"
            )
        nesting = self.max_plate_nesting
        of_guide = _Relaxing(self.temperature, self.hard)
        of_model = _Relaxing(self.temperature, self.hard, of_guide.kinds)
        programs = of_model(model), of_guide(guide)
        draws = draw(*programs, *data, k=self.k, max_plate_nesting=nesting, **kwargs)
        check_some_discrete(of_guide.kinds.values())
        local = elbo_per_datum(draws, max_plate_nesting=nesting)
        loss = -(local.sum() + elbo_of_globals(draws))
        if is_validation_enabled() and torch.is_grad_enabled():
            _check_used(loss, of_model.seen)
        return loss


class _Relaxing(Messenger):
    """Gives a program relaxed values z, while handlers around it see logits and their densities.

    Args:
        temperature: The temperature t.
        hard: Whether the program sees discrete values.
        of_guide: For the model, the kinds of the guide's latent sites.
    """

    def __init__(
        self, temperature: float, hard: bool, of_guide: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.temperature, self.hard, self.of_guide = temperature, hard, of_guide
        self.kinds: dict[str, str] = {}
        self.seen: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not isinstance(msg["fn"], TorchDistributionMixin):
            return
        name, kind = msg["name"], kind_of(msg["fn"])
        if self.of_guide is None:
            check_relaxable(name, kind, RELAXATIONS, msg["infer"])
        elif name in self.of_guide:
            check_one_kind(name, kind, self.of_guide[name])
        else:  # the model's alone
            return
        self.kinds[name] = kind
        if kind in RELAXATIONS:
            check_not_given(name, msg["value"])
            msg["fn"] = relax(msg["fn"], self.temperature)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        relaxation = RELAXATIONS.get(self.kinds.get(name, ""))
        if relaxation is not None:
            self.seen[name] = msg["value"] = relaxation.site_value(msg["value"], self.hard)


def _check_used(loss: Tensor, seen: Mapping[str, Tensor]) -> None:
    """Refuse programs that cut the gradients of relaxed values, by casting them to integers."""
    reached = {name: value for name, value in seen.items() if value.requires_grad}
    if not reached:
        return
    settings: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    grads = torch.autograd.grad(loss, list(reached.values()), **settings)
    for name, grad in zip(reached, grads, strict=True):
        if grad is None:
            raise ValueError(
                f"site {name!r} should be used by the model as the floating number that it is, "
                "but the loss has no gradient by it: it may be made an integer (.long(), an index)"
            )
