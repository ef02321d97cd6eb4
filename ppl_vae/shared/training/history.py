"""The result and the description of a run, for both backends."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import as_numpy, resampling_distribution


@dataclass(frozen=True)
class History:
    """The result of `fit`: the trained model, and a row of numbers per epoch.

    Attributes:
        model: The trained model (the Pyro `fit` trains the one it was given, in place).
        rows: One mapping per epoch: "epoch" (from 1), "loss" (mean over the epoch's batches, in
            nats per datum), the objective's state if it has one, the numbers of `validation`, and
            "seconds" (of that epoch).
        out: The folder of metrics.csv and the checkpoint, if any.
        objective: The objective with its final state and the trained weights of its networks.
    """

    model: Any
    rows: list[dict[str, float]]
    out: Path | None
    objective: Any = None

    def __getitem__(self, column: str) -> np.ndarray:
        """Return a column, shape (epochs,)."""
        return np.array([row[column] for row in self.rows])

    @property
    def seconds(self) -> float:
        """Total time of all epochs, including those before a resume."""
        return float(sum(row["seconds"] for row in self.rows))


def fingerprint(data: Any) -> list[Any]:
    """Return shape, checksum and whether it is resampled in every batch, for each array."""
    prints = []
    for value in data:
        checksum = 0
        for array in value.parameters if resampling_distribution(value) else (as_numpy(value),):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        prints.append([list(value.shape), checksum, resampling_distribution(value) is not None])
    return prints


def plain(value: Any) -> Any:
    """Return an argument of a run as a JSON value."""
    if isinstance(value, tuple):
        return list(value)
    return value.describe() if isinstance(value, Configurable) else value


def describe_run(model: Any, objective: Any, data: Any, **settings: Any) -> dict[str, Any]:
    """Return the description of a run as JSON values, which is compared on resuming."""
    return {
        "backend": model.backend,
        "model": model.describe(),
        "objective": _describe_objective(objective),
        "data": fingerprint(data),
        **settings,
    }


def _describe_objective(objective: Any) -> dict[str, Any]:
    """Describe an objective, and any objective it holds, by class and plain attributes."""
    about = {}
    for key, value in vars(objective).items():
        if isinstance(value, bool | int | float | str | list | tuple | Configurable | None):
            about[key] = plain(value)
        elif hasattr(value, "loss_and_state"):
            about[key] = _describe_objective(value)
    return {"class": type(objective).__name__, **about}
