"""What becomes of a run whose loss or gradient is not finite, for both backends."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_choice
from ppl_vae.shared.io import safetensors_file

POLICIES = ("stop", "skip", "restore")
"""Values of `on_nan`, an argument of `fit`."""
RESTORES = 3
"""How often `on_nan="restore"` begins an epoch again before the run stops."""
BATCH = "fault.safetensors"
"""The file of the batch at fault, in the folder of the run."""


def check_on_nan(on_nan: Any) -> None:
    """Raises a ValueError unless this is one of `POLICIES`."""
    check_choice("on_nan", on_nan, POLICIES)


def describe(where: str, loss: float, fault: str | None) -> str:
    """What is wrong with a step whose loss or gradient is not finite.

    Args:
        where: The epoch and the batch.
        loss: Of the step.
        fault: What was at fault when the batch was run again, by `of_site` or `of_parameter`.
    """
    if math.isfinite(loss):
        says = f"gradient should be finite, was not at {where}, of the loss {loss:g}"
    else:
        says = f"loss should be finite, was {loss} at {where}"
    return f"{says}; {fault or 'everything was finite when the batch was run again'}"


def of_site(name: str, part: str, kind: str) -> str:
    """The fault of a sample site, whose value, log density or parameter is NaN or infinite."""
    return f"first site at fault: {name!r}, whose {part} is {kind}"


def of_parameter(name: str, kind: str) -> str:
    """The fault of a parameter, whose gradient is NaN or infinite."""
    return f"first parameter at fault: {name!r}, whose gradient is {kind}"


def nothing_left(epoch: int, first: str) -> str:
    """Return the message of `on_nan="skip"` when every batch of an epoch had a fault."""
    return f"every batch of epoch {epoch} had a skipped step; the first fault: {first}"


def save_batch(out: Path | None, fault: str, indices: Any, batch: Sequence[Any]) -> str:
    """Writes the batch at fault into the folder, if there is one; the last words of the run.

    The file holds "indices", the places of the data in the data set, (B,), and the arguments of the
    model as they were in this batch, "data.0", "data.1", ...; its text has the `fault`.
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
    """The seed of an epoch that is begun again for the `restored`-th time; 0 is the first try."""
    if restored == 0:
        return seed
    return int(np.random.SeedSequence([seed, restored]).generate_state(1)[0])
