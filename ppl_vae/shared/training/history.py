"""What a run was, and what came of it, in either backend."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import as_numpy, resampling_distribution


@dataclass(frozen=True)
class History:
    """What `fit` made and measured: a model, and a row per epoch.

    Attributes:
        model: The trained model (the Pyro `fit` trains the one it was given, in place).
        rows: One mapping per epoch: "epoch" (from 1), "loss" (mean over the epoch's batches, in
            nats per datum), the objective's state if it has one, what `validation` returned, and
            "seconds" (of that epoch).
        out: The folder of metrics.csv and the checkpoint, if there is one.
        objective: The objective with its final state and the trained weights of its networks.
    """

    model: Any
    rows: list[dict[str, float]]
    out: Path | None
    objective: Any = None

    def __getitem__(self, column: str) -> np.ndarray:
        """A column, shape (epochs,)."""
        return np.array([row[column] for row in self.rows])

    @property
    def seconds(self) -> float:
        """Time of all epochs, those before a resume included."""
        return float(sum(row["seconds"] for row in self.rows))


def fingerprint(data: Any) -> list[Any]:
    """Shape, checksum and whether it is drawn anew, of each array: a resumed run's data."""
    prints = []
    for value in data:
        checksum = 0
        for array in value.parameters if resampling_distribution(value) else (as_numpy(value),):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        prints.append([list(value.shape), checksum, resampling_distribution(value) is not None])
    return prints


def plain(value: Any) -> Any:
    """An argument of a run as a JSON value."""
    if isinstance(value, tuple):
        return list(value)
    return value.describe() if isinstance(value, Configurable) else value


def describe_run(model: Any, objective: Any, data: Any, **settings: Any) -> dict[str, Any]:
    """What makes a run this run, as JSON values: compared when it is resumed."""
    return {
        "backend": model.backend,
        "model": model.describe(),
        "objective": _describe_objective(objective),
        "data": fingerprint(data),
        **settings,
    }


def _describe_objective(objective: Any) -> dict[str, Any]:
    """Its class and plain attributes, and likewise of an objective that it holds."""
    about = {}
    for key, value in vars(objective).items():
        if isinstance(value, bool | int | float | str | list | tuple | Configurable | None):
            about[key] = plain(value)
        elif hasattr(value, "loss_and_state"):
            about[key] = _describe_objective(value)
    return {"class": type(objective).__name__, **about}
