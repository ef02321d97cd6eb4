"""Check that several processes together compute what one process does."""

from collections.abc import Mapping, Sequence

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.inference import random_state
from ppl_vae.inference.compilation.capture import ModuleTensors
from ppl_vae.inference.training.batch_loss import BatchLoss

TOLERANCE = {"fp64": 1e-8, "fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2}
"""Largest relative difference between one process and several, by precision."""


def check_sums(
    loss: BatchLoss,
    modules: ModuleTensors,
    parameters: Mapping[str, nn.Parameter],
    epoch: int,
    state: Mapping[str, Tensor],
    batch: Sequence[Tensor],
) -> None:
    """Check that the processes' parts of a batch sum to the loss of one process, up to rounding.

    Args:
        loss: The loss of a batch.
        modules: The parameters and buffers of the modules.
        parameters: All parameters by name.
        epoch: Number of the epoch.
        state: The objective's state.
        batch: A batch.

    Raises:
        ValueError: They do not.
    """
    processes = loss.processes
    if not processes.is_distributed:
        return
    data, random = loss.data(batch), random_state.of_draws(processes.device)
    trained = [p for p in parameters.values() if p.requires_grad]
    results: list[dict[str, Tensor]] = []
    for compute, reduces in ((loss.whole, False), (loss.own_part, True)):
        random_state.set_draws(random, processes.device)
        buffers = modules.saved_buffers()
        with pyro.validation_enabled(False):
            value, after = compute(epoch, state, data)
        grads: Sequence[Tensor | None] = torch.autograd.grad(value, trained, allow_unused=True)
        if reduces:
            value, grads = processes.all_reduce(value, grads)
        moved = {f"buffer {n!r}": b.clone() for n, b in loss.model.named_buffers()}
        modules.restore(buffers)
        flat = torch.cat([grad.reshape(-1) for grad in grads if grad is not None])
        results.append({"loss": value.detach(), "gradient": flat, **after, **moved})
    if not processes.independent_draws:
        precision = "fp64" if trained[0].dtype == torch.double else loss.precision
        _check_equal(results[0], results[1], TOLERANCE[precision])


def _check_equal(
    one: Mapping[str, Tensor], several: Mapping[str, Tensor], tolerance: float
) -> None:
    """Raise a ValueError unless both hold the same numbers, up to the relative tolerance."""
    for name, value in one.items():
        other = several[name].to(value)
        finite = value.isfinite() & other.isfinite()
        least = 1e-6 if name == "gradient" else 1.0
        difference = (value - other)[finite].norm() / value[finite].norm().clamp(min=least)
        if difference > tolerance or not torch.equal(value.isnan(), other.isnan()):
            raise ValueError(
                "objective should be a sum over the data of a batch to be trained by several "
                f"processes, but their {name} of the first batch is not that of one process "
                f"(relative difference {float(difference):.1e}). The objective may not be such a "
                "sum, or layers may draw random numbers that processes cannot share, such as "
                "dropout of an activation without a data dimension: use one process"
            )
