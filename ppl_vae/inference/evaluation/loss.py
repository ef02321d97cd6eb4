"""What is measured of a trained model."""

from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import CompiledFunction, resolve_compile
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective, check_objective
from ppl_vae.models.base import Model, check_model, evaluating
from ppl_vae.shared.checks import check_whole, sample_once
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.sites import check_kl_terms


def mean_loss(
    model: Model,
    data: Any,
    objective: Objective | None = None,
    *,
    batch_size: int = 1000,
    compile: Compile = "auto",
    seed: int = 0,
) -> float:
    """The loss per datum, in nats: with the default `ELBO()`, minus the evidence lower bound.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that
            are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        objective: What is averaged, without weights that only training has (`beta`, `free_bits`).
        batch_size: Data that are looked at together; it bounds the memory.
        compile: Whether the loss of a batch is compiled, see `log_likelihood`.
        seed: Of the draws and the pixels; the caller's random state is left as it was.

    Raises:
        ValueError: the data are not the model's; with `compile=True`, what prevents compiling.
    """
    check_whole("batch_size", batch_size, 1)
    objective = ELBO() if objective is None else objective
    check_objective("objective", objective)
    objective = objective.for_evaluation()
    arrays = sample_once(as_tuple(data), seed)
    objective.check(model, *arrays)
    batches = Batches(arrays, model.device, next(model.parameters()).dtype)
    rows = objective.num_particles * min(batch_size, len(batches))
    compile = resolve_compile(compile, model, -(-len(batches) // batch_size), rows)
    loss, total = _loss_of_batch(model, objective, compile), 0.0
    with evaluating(model), random_state.isolated(seed, model.device):
        for index in torch.arange(len(batches)).split(batch_size):
            with pyro.validation_enabled(False):
                total += loss(*batches[index]).item()
    return total / len(batches)


def _loss_of_batch(model: Model, objective: Objective, compile: Compile) -> CompiledFunction:
    programs = model.model, model.guide

    def loss(*batch: Tensor) -> Tensor:
        if type(objective).loss is Objective.loss:
            return objective.differentiable_loss(*programs, *batch)
        return torch.tensor(objective.loss(*programs, *batch), dtype=torch.double)

    return CompiledFunction(loss, [model, *objective.networks().values()], compile=compile)


def kl_per_site(
    model: Model, data: Any, *, k: int = 1, batch_size: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """E_q[log q(z | ...) - log p(z | ...)] of each latent site and datum, by name, in nats.

    Their sum is the KL divergence of guide and prior, and -ELBO less the reconstruction's part; a
    layer whose term is near 0 is not used. The expectation of a datum is the mean of k draws; of
    one draw its Monte Carlo error is not known (NaN), but it is a part of the standard error over
    the data. Of a guide that goes bottom-up, the term of one layer alone can be negative.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that
            are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels; the caller's random state is left as it was.

    Raises:
        ValueError: there is no latent site, or one is enumerated or lies outside the data plate, or
            has a prior that depends on a site that the model alone enumerates.
    """
    check_whole("k", k, 1)
    check_whole("batch_size", batch_size, 1)
    check_model(model)
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    batches = Batches(arrays, model.device, next(model.parameters()).dtype)
    terms: dict[str, list[Estimate]] = {}
    with evaluating(model), random_state.isolated(seed, model.device), torch.no_grad():
        for index in torch.arange(len(batches)).split(batch_size):
            with pyro.validation_enabled(False):
                draws = draw(model.model, model.guide, *batches[index], k=k)
            for name in check_kl_terms(draws.model, draws.guide):
                term = draws.guide[name].log_prob - draws.model[name].log_prob
                terms.setdefault(name, []).append(Estimate.of_draws(term))
    return {name: Estimate.join(parts) for name, parts in terms.items()}
