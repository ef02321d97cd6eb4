"""See `ppl_vae.inference.objectives.elbo`."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers

from ppl_vae.numpyro.inference.draws import Draws, Program, draw
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.numpyro.inference.objectives.parts.baselines import (
    Baseline,
    centring,
    check_baseline,
    description,
)
from ppl_vae.numpyro.inference.objectives.parts.elbo_terms import elbo_of_globals, elbo_terms
from ppl_vae.numpyro.inference.objectives.parts.equality import same
from ppl_vae.numpyro.inference.objectives.parts.free_bits import free_bits_penalty
from ppl_vae.numpyro.models.base import parameters, with_parameters
from ppl_vae.shared.checks import check_at_least, check_flag
from ppl_vae.shared.objectives.free_bits import FreeBits, as_free_bits
from ppl_vae.shared.schedules import Schedule


class ELBO(Objective):
    """See `ppl_vae.inference.ELBO`.

    A baseline is trained by `fit` alone: `numpyro.infer.SVI` has no place for what is learned, and
    is refused. `fit` does not change the given network, an `equinox.Module`; the trained one is in
    the checkpoint, under "network.baseline".
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

    def network_weights(self) -> dict[str, Array]:
        if not isinstance(self.baseline, eqx.Module):
            return {}
        return {f"baseline.{name}": value for name, value in parameters(self.baseline).items()}

    def with_network_weights(self, weights: Mapping[str, Array]) -> Self:
        own = {name.removeprefix("baseline."): value for name, value in weights.items()}
        return self._with(baseline=with_parameters(self.baseline, own)) if own else self

    def state(self) -> dict[str, Array]:
        return {} if self.baseline is None else {"baseline": jnp.asarray(jnp.nan)}

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
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        return self.loss_and_state(model, guide, *data, key=key, **kwargs)[0]

    def loss_with_mutable_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.baseline is not None:
            raise ValueError(
                "baseline should be None in numpyro.infer.SVI, which cannot train it: use "
                "ppl_vae.numpyro.inference.fit"
            )
        return super().loss_with_mutable_state(*args, **kwargs)

    def loss_and_state(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        beta = self.beta
        if isinstance(beta, Schedule):
            raise ValueError(
                "beta should be a number where no epoch is known, was a "
                f"{type(beta).__name__}: fit knows the epoch, elsewhere use objective.at(epoch)"
            )
        nesting = {"max_plate_nesting": self.max_plate_nesting}
        draws = draw(model, guide, *data, k=self.k, key=key, **nesting, **kwargs)
        free_bits = as_free_bits(self.free_bits)
        _check_weighed(draws, beta, free_bits)
        terms = elbo_terms(draws, self.analytic_kl, beta, self.max_plate_nesting)
        loss, state = -elbo_of_globals(draws, beta=beta), {}
        if self.baseline is None:
            loss = loss - terms.bound().sum()
        else:
            average = self._state["baseline"]
            # A number that `draw` does not fold in or split off, for dropout in the network.
            with handlers.seed(rng_seed=jax.random.fold_in(key, 2)):
                centre = centring(draws, self.baseline, average, *data, **nesting, **kwargs)
            signal = terms.signal()
            loss = loss - terms.bound(centre.baseline).sum() + centre.error(signal)
            state = {"baseline": centre.next_average(signal)}
        if free_bits.nats > 0:
            settings: dict[str, Any] = {"analytic_kl": self.analytic_kl, **nesting}
            loss = loss + beta * free_bits_penalty(free_bits, draws, **settings)
        return loss, state


def _check_weighed(draws: Draws, beta: Any, free_bits: FreeBits) -> None:
    if any(not site.observed for site in draws.guide.values()):
        return
    for name, given in (("beta", not same(beta, 1.0)), ("free_bits", free_bits.nats > 0)):
        if given:
            raise ValueError(
                f"{name} should be left out for a guide that draws no latent site, of which there "
                "is no KL term to weigh"
            )
