"""Policies and messages for non-finite losses and gradients, for both backends."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_choice
from ppl_vae.shared.io import safetensors_file

POLICIES = ("stop", "skip", "restore")
"""Values of the argument `on_nan` of `fit`."""
RESTORES = 3
"""Maximum number of restarts of an epoch by `on_nan="restore"`."""
BATCH = "fault.safetensors"
"""File name of the batch with the fault, in the folder of the run."""


def check_on_nan(on_nan: Any) -> None:
    """Check that `on_nan` is one of `POLICIES`."""
    check_choice("on_nan", on_nan, POLICIES)


def describe(where: str, loss: float, fault: str | None) -> str:
    """Return the message for a step whose loss or gradient is not finite.

    Args:
        where: The epoch and the batch, in words.
        loss: The loss of the step.
        fault: The fault found by running the batch again, from `of_site` or `of_parameter`.
    """
    if math.isfinite(loss):
        message = f"gradient should be finite, was not at {where}, of the loss {loss:g}"
    else:
        message = f"loss should be finite, was {loss} at {where}"
    return f"{message}; {fault or 'everything was finite when the batch was run again'}"


def of_site(name: str, part: str, kind: str) -> str:
    """Describe a sample site whose value, log density or parameter is NaN or infinite."""
    return f"first site at fault: {name!r}, whose {part} is {kind}"


def of_parameter(name: str, kind: str) -> str:
    """Describe a parameter whose gradient is NaN or infinite."""
    return f"first parameter at fault: {name!r}, whose gradient is {kind}"


def nothing_left(epoch: int, first: str) -> str:
    """Return the message of `on_nan="skip"` when every batch of an epoch had a fault."""
    return f"every batch of epoch {epoch} had a skipped step; the first fault: {first}"


def save_batch(out: Path | None, fault: str, indices: Any, batch: Sequence[Any]) -> str:
    """Write the batch with the fault into the folder, if any, and return the error message.

    The file holds "indices", the positions of the data in the data set, shape (B,), and the model's
    arguments in this batch, "data.0", "data.1", ...; its text holds the `fault`.
    """
    if out is None:
        return fault
    arrays = {f"data.{number}": np.asarray(part) for number, part in enumerate(batch)}
    path = out / BATCH
    safetensors_file.write(path, {"indices": np.asarray(indices), **arrays}, {"fault": fault})
    return (
        f"{fault}. The checkpoint of the last epoch, if there is one, is good. "
        f"The batch is in {str(path)!r}"
    )


def fresh_seed(seed: int, restored: int) -> int:
    """Return the random seed of an epoch after `restored` restarts."""
    if restored == 0:
        return seed
    return int(np.random.SeedSequence([seed, restored]).generate_state(1)[0])
