"""The mean loss of a trained pair."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import CompiledFunction, resolve_compile
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective, check_objective
from ppl_vae.models.base import Model


def mean_loss(
    model: Model,
    data: Any,
    objective: Objective | None = None,
    *,
    batch_size: int = 1000,
    compile: Compile = "auto",
    seed: int = 0,
) -> float:
    """Return the loss per datum, in nats; with the default `ELBO()`, minus the ELBO.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        objective: The objective, without its training-only weights (`beta`, `free_bits`).
        batch_size: Batch size; limits peak memory.
        compile: Whether to compile the loss of a batch, see `log_likelihood`.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.

    Raises:
        ValueError: the data are not the model's, or an argument is invalid; with `compile=True`,
            what prevents compiling.
    """
    objective = ELBO() if objective is None else objective
    check_objective("objective", objective)
    objective = objective.for_evaluation()
    pair = TrainedPair(model, data, batch_size=batch_size, seed=seed, objective=objective)
    rows = objective.num_particles * pair.batch_size
    compile = resolve_compile(compile, model, len(pair.rows()), rows)
    loss, total = _loss_of_batch(model, objective, compile), 0.0
    with pair.evaluating():
        for batch in pair.batches():
            total += loss(*batch).item()
    return total / pair.n


def _loss_of_batch(model: Model, objective: Objective, compile: Compile) -> CompiledFunction:
    programs = model.model, model.guide

    def loss(*batch: Tensor) -> Tensor:
        if type(objective).loss is Objective.loss:
            return objective.differentiable_loss(*programs, *batch)
        return torch.tensor(objective.loss(*programs, *batch), dtype=torch.double)

    return CompiledFunction(loss, [model, *objective.networks().values()], compile=compile)
