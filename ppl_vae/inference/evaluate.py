"""What is measured of a trained model."""

from typing import Any

import pyro
import torch

from ppl_vae.checks import check_whole, drawn_by
from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.elbo import ELBO
from ppl_vae.inference.objective import Objective
from ppl_vae.models.base import Model, evaluating


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
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that
            are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        objective: What is averaged, without weights that only training has (`beta`, `free_bits`).
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
    """
    check_whole("batch_size", batch_size, 1)
    objective = ELBO() if objective is None else objective.measured()
    # One draw of data that are drawn anew, the same in both backends.
    arrays = [x.sample(seed) if drawn_by(x) else x for x in as_tuple(data)]
    objective.check(model, *arrays)
    batches = Batches(arrays, model.device, next(model.parameters()).dtype)
    total = 0.0
    with evaluating(model), random_state.isolated(seed, model.device):
        for index in torch.arange(len(batches)).split(batch_size):
            with pyro.validation_enabled(False):
                total += objective.loss(model.model, model.guide, *batches[index])
    return total / len(batches)
