"""See `ppl_vae.inference.evaluation.loss`."""

from typing import Any

import jax.numpy as jnp

from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.parts.base import Objective, check_objective
from ppl_vae.numpyro.models.base import Model


def mean_loss(
    model: Model,
    data: Any,
    objective: Objective | None = None,
    *,
    batch_size: int = 1000,
    seed: int = 0,
) -> float:
    """See `ppl_vae.inference.mean_loss`; it is not compiled."""
    objective = ELBO() if objective is None else objective
    check_objective("objective", objective)
    objective = objective.for_evaluation()
    pair = TrainedPair(model, data, batch_size=batch_size, seed=seed, objective=objective)
    total = 0.0
    with pair.evaluating():
        for batch, key in pair.batches():
            loss = objective.differentiable_loss(model.model, model.guide, *batch, key=key)
            total += float(jnp.asarray(loss))
    return total / pair.n
