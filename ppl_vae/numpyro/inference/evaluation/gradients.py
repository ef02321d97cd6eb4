"""See `ppl_vae.inference.evaluation.gradients`."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import numpyro

from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.objectives.parts.base import Objective, SharedState, check_objective
from ppl_vae.numpyro.models.base import Model, buffers, parameters, with_parameters
from ppl_vae.shared.checks import as_numpy, check_type, next_seed, sample_once
from ppl_vae.shared.evaluation.gradients import Moments, check_repeats, statistics


def gradient_stats(
    objective: Objective,
    model: Model,
    batch: Any,
    repeats: int = 100,
    *,
    truth: Objective | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """Bias, variance and signal-to-noise ratio, as `ppl_vae.inference.gradient_stats`.

    Args:
        objective: What is differentiated.
        model: The pair, in evaluation mode.
        batch: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        repeats: Number of estimates.
        truth: The gradients of the loss per datum by the names of the parameters, or an objective
            whose estimates are unbiased for what `objective` should have; as many are taken.
        seed: Of the draws.

    Returns:
        A pandas DataFrame, a row for each group, with the columns "parameters", "norm", "variance",
        "snr", and with a truth "bias" and "chance".

    Raises:
        ValueError: the batch is not the model's, repeats are fewer than 2, or the truth is of other
            parameters.
        ImportError: pandas is not installed.
    """
    check_objective("objective", objective)
    check_type("truth", truth, Objective | Mapping | None, "an objective or gradients by name")
    check_repeats(repeats)
    found = Moments(_estimates(objective, model, batch, repeats, seed))
    if isinstance(truth, Objective):
        others = _estimates(truth, model, batch, repeats, next_seed(seed))
        return statistics(found, Moments(others))
    known = None if truth is None else {name: as_numpy(value) for name, value in truth.items()}
    return statistics(found, known)


def _estimates(
    objective: Objective, model: Model, batch: Any, repeats: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Gradients of the loss per datum by the name of the parameter, again and again."""
    arrays = sample_once(as_tuple(batch), seed)
    prepared = objective.prepare(model, *arrays)
    weights = parameters(model)
    weight = next(iter(weights.values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)

    def loss(weights: Any, key: jax.Array) -> Any:
        pair = with_parameters(model, weights | buffers(model))
        with SharedState(), numpyro.validation_enabled(False):
            total = prepared.differentiable_loss(pair.model, pair.guide, *batches.arrays, key=key)
        return total / len(batches)

    gradient = jax.jit(jax.grad(loss))
    for key in jax.random.split(jax.random.key(seed), repeats):
        yield {name: np.asarray(value) for name, value in gradient(weights, key).items()}
