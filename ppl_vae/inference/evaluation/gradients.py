"""What the gradient estimates of an objective are worth: bias, variance, signal to noise."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyro
import torch

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.objectives.parts.base import Objective, check_objective
from ppl_vae.models.base import Model, keeping_buffers
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
    """Bias, variance and signal-to-noise ratio of the gradient estimates, by network of the pair.

    With g the gradient of the loss per datum by the parameters of a group, a vector, and its
    expectation and covariance over draws, the batch given:

        norm = ||E g||,   variance = tr Cov g,   snr = ||E g|| / sqrt(tr Cov g)            (1)
        bias = ||mean of g - truth||,   chance = what is expected of that without a bias

    ||E g|| is estimated without the part of ||mean of g|| that is noise, and is 0 where that part
    is all there is.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh, "Tighter variational bounds are not
        necessarily better", ICML 2018, arXiv:1802.04537, section 3.

    Differs from the paper:
        (1) is the ratio of a group's norms, where the paper has one for each single parameter.

    Args:
        objective: What is differentiated.
        model: The pair, in the mode (training or evaluation) that it is in; its parameters,
            gradients and running statistics stay as they are.
        batch: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        repeats: Number of estimates.
        truth: The gradients of the loss per datum by the names of the parameters, or an objective
            whose estimates are unbiased for what `objective` should have; as many are taken.
        seed: Of the draws; the caller's random state is left as it was.

    Returns:
        A pandas DataFrame, a row for each group: the parameters of one attribute of the model
        ("encoder", "decoder"), with the columns "parameters" (their number), "norm", "variance",
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
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batches = Batches(arrays, model.device, next(iter(named.values())).dtype)
    data = batches[torch.arange(len(batches))]
    programs = (model.model, model.guide)
    with random_state.isolated(seed, model.device), keeping_buffers(model):
        for _ in range(repeats):
            with pyro.validation_enabled(False):
                loss = prepared.differentiable_loss(*programs, *data) / len(batches)
                grads = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
            yield {name: as_numpy(grad) for name, grad in zip(named, grads, strict=True)}
