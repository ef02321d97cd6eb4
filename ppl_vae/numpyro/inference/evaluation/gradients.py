"""See `ppl_vae.inference.evaluation.gradients`."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpyro

from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.inference.objectives.parts.base import Objective, SharedState
from ppl_vae.numpyro.models.base import buffers, with_parameters


def gradients(
    pair: TrainedPair, objective: Objective, repeats: int
) -> Iterator[dict[str, np.ndarray]]:
    """See `ppl_vae.inference.evaluation.gradients.gradients`."""
    model, data = pair.model, pair.data.arrays
    prepared = objective.prepare(model, *pair.arrays)

    def loss(weights: Any, key: jax.Array) -> Any:
        trained = with_parameters(model, weights | buffers(model))
        with SharedState(), numpyro.validation_enabled(False):
            total = prepared.differentiable_loss(trained.model, trained.guide, *data, key=key)
        return total / pair.n

    gradient = jax.jit(jax.grad(loss))
    for key in jax.random.split(jax.random.key(pair.seed), repeats):
        yield {name: np.asarray(value) for name, value in gradient(pair.weights, key).items()}
