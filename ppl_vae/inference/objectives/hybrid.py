"""Hybrid of the conditional ELBO and the bound whose guide is the prior."""

from typing import Any

from pyro import poutine
from torch import Tensor

from ppl_vae.inference.draws import Program
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.shared.checks import check_flag, check_fraction


class Hybrid(Objective):
    """Hybrid objective alpha L_CVAE + (1 - alpha) L_GSNN for conditional models.

        L_CVAE = E_{q(z | c, x)} [log p(x, z | c) - log q(z | c, x)]      (1)
        L_GSNN = E_{p(z | c)} log p(x | c, z)                             (2)

    The second is the ELBO with the prior as guide, so it trains prediction of x from c alone.
    With alpha = 0 the guide is not trained: freeze its networks, or use `cvae.gsnn()` with `ELBO`.

    References:
        Sohn, Lee & Yan, "Learning structured output representation using deep conditional
        generative models", NeurIPS 2015 (the paper's x is our c, its y our x).

    Args:
        alpha: Weight of (1), in [0, 1].
        k: Number of particles of each bound.
        analytic_kl: Whether KL terms are in closed form, see `ELBO`.
        max_plate_nesting: Number of plate dimensions of the programs.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        k: int = 1,
        analytic_kl: bool = False,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_fraction("alpha", alpha)
        check_flag("analytic_kl", analytic_kl)
        self.alpha, self.analytic_kl = alpha, analytic_kl

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        elbo = ELBO(self.k, self.analytic_kl, max_plate_nesting=self.max_plate_nesting)
        cvae = elbo.differentiable_loss(model, guide, *data, **kwargs)  # (1)
        prior = poutine.block(model, hide_fn=_is_observed)
        gsnn = elbo.differentiable_loss(model, prior, *data, **kwargs)  # (2)
        return self.alpha * cvae + (1 - self.alpha) * gsnn


def _is_observed(site: Any) -> bool:
    return site["type"] == "sample" and bool(site["is_observed"])
