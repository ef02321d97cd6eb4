"""What a trained model is worth, as `ppl_vae.inference.evaluation.loss`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro

from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import draw
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.parts.base import Objective, check_objective
from ppl_vae.numpyro.models.base import Model, check_model, parameters
from ppl_vae.shared.checks import check_whole, sample_once
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.sites import check_kl_terms


def mean_loss(
    model: Model,
    data: Any,
    objective: Objective | None = None,
    *,
    batch_size: int = 1000,
    seed: int = 0,
) -> float:
    """The loss per datum, in nats: with the default `ELBO()`, minus the evidence lower bound.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that
            are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        objective: What is averaged, without weights that only training has (`beta`, `free_bits`).
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels.
    """
    check_whole("batch_size", batch_size, 1)
    objective = ELBO() if objective is None else objective
    check_objective("objective", objective)
    objective = objective.for_evaluation()
    arrays = sample_once(as_tuple(data), seed)
    objective.check(model, *arrays)
    weight = next(iter(parameters(model).values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)
    total = 0.0
    for number, start in enumerate(range(0, len(batches), batch_size)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        batch = [array[start : start + batch_size] for array in batches.arrays]
        # NumPyro's checks would stop the run of a model that has gone wrong.
        with numpyro.validation_enabled(False):
            loss = objective.differentiable_loss(model.model, model.guide, *batch, key=key)
        total += float(jnp.asarray(loss))
    return total / len(batches)


def kl_per_site(
    model: Model, data: Any, *, k: int = 1, batch_size: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """E_q[log q(z | ...) - log p(z | ...)] of each latent site and datum, by name, in nats.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that
            are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum; of one its Monte Carlo error is not known (NaN).
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels.

    Raises:
        ValueError: there is no latent site, or one is enumerated or lies outside the data plate, or
            has a prior that depends on a site that the model alone enumerates.
    """
    check_whole("k", k, 1)
    check_whole("batch_size", batch_size, 1)
    check_model(model)
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    weight = next(iter(parameters(model).values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)
    terms: dict[str, list[Estimate]] = {}
    for number, start in enumerate(range(0, len(batches), batch_size)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        batch = [array[start : start + batch_size] for array in batches.arrays]
        with numpyro.validation_enabled(False):
            draws = draw(model.model, model.guide, *batch, k=k, key=key)
        for name in check_kl_terms(draws.model, draws.guide):
            term = draws.guide[name].log_prob - draws.model[name].log_prob
            terms.setdefault(name, []).append(Estimate.of_draws(term))
    return {name: Estimate.join(parts) for name, parts in terms.items()}
