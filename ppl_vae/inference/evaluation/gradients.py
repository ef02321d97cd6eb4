"""Gradient estimates for `gradient_stats`."""

from collections.abc import Iterator

import numpy as np
import pyro
import torch

from ppl_vae.inference import random_state
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.models.base import keeping_buffers
from ppl_vae.shared.checks import as_numpy


def gradients(
    pair: TrainedPair, objective: Objective, repeats: int
) -> Iterator[dict[str, np.ndarray]]:
    """Return estimates of the gradient of the loss per datum, by parameter name."""
    model = pair.model
    prepared = objective.prepare(model, *pair.arrays)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    data, programs = pair.batch(slice(0, pair.n)), (model.model, model.guide)
    with random_state.isolated(pair.seed, model.device), keeping_buffers(model):
        for _ in range(repeats):
            with pyro.validation_enabled(False):
                loss = prepared.differentiable_loss(*programs, *data) / pair.n
                grads = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
            yield {name: as_numpy(grad) for name, grad in zip(named, grads, strict=True)}
