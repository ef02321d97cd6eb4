"""What becomes of a run whose loss or gradient is not finite, for both backends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae import files
from ppl_vae.checks import check_choice

POLICIES = ("stop", "skip", "restore")
"""Values of `on_nan`, an argument of `fit`."""
RESTORES = 3
"""How often `on_nan="restore"` begins an epoch again before the run stops."""
BATCH = "fault.safetensors"
"""The file of the batch at fault, in the folder of the run."""


def check_on_nan(on_nan: Any) -> None:
    """Raises a ValueError unless this is one of `POLICIES`."""
    check_choice("on_nan", on_nan, POLICIES)


def save_batch(out: Path | None, message: str, indices: Any, batch: Sequence[Any]) -> str:
    """Writes the batch at fault into the folder, if there is one, and says where it is.

    The file holds "indices", the places of the data in the data set, (B,), and the arguments of the
    model as they were in this batch, "data.0", "data.1", ...; its text has the `message`.
    """
    if out is None:
        return message
    arrays = {f"data.{number}": np.asarray(part) for number, part in enumerate(batch)}
    path = out / BATCH
    files.write(path, {"indices": np.asarray(indices), **arrays}, {"fault": message})
    return f"{message}. The batch is in {str(path)!r}"


def fresh_seed(seed: int, restored: int) -> int:
    """The seed of an epoch that is begun again for the `restored`-th time; 0 is the first try."""
    if restored == 0:
        return seed
    return int(np.random.SeedSequence([seed, restored]).generate_state(1)[0])
