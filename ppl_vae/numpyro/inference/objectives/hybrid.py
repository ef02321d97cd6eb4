"""See `ppl_vae.inference.objectives.hybrid`."""

from typing import Any

import jax
from jax import Array
from numpyro import handlers

from ppl_vae.numpyro.inference.draws import Program
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.shared.checks import check_flag, check_fraction


class Hybrid(Objective):
    """See `ppl_vae.inference.Hybrid`."""

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
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        elbo = ELBO(self.k, self.analytic_kl, max_plate_nesting=self.max_plate_nesting)
        for_cvae, for_gsnn = jax.random.split(key)
        cvae = elbo.differentiable_loss(model, guide, *data, key=for_cvae, **kwargs)  # (1)
        prior = handlers.block(model, hide_fn=_is_observed)
        gsnn = elbo.differentiable_loss(model, prior, *data, key=for_gsnn, **kwargs)  # (2)
        return self.alpha * cvae + (1 - self.alpha) * gsnn


def _is_observed(site: Any) -> bool:
    return site["type"] == "sample" and bool(site["is_observed"])
