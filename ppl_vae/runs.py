"""What a run shows and leaves behind, in either backend: progress, metrics, checkpoints."""

import csv
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ppl_vae import files
from ppl_vae.arguments import Remembers
from ppl_vae.checks import as_numpy, drawn_by

METRICS = "metrics.csv"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class History:
    """What `fit` made and measured: a model, and a row per epoch.

    Attributes:
        model: The trained model (the Pyro `fit` trains the one it was given, in place).
        rows: One mapping per epoch: "epoch" (from 1), "loss" (mean over the epoch's batches, in
            nats per datum), the objective's state if it has one, what `validation` returned, and
            "seconds" (of that epoch).
        out: The folder of metrics.csv and the checkpoint, if there is one.
    """

    model: Any
    rows: list[dict[str, float]]
    out: Path | None

    def __getitem__(self, column: str) -> np.ndarray:
        """A column, shape (epochs,)."""
        return np.array([row[column] for row in self.rows])

    @property
    def seconds(self) -> float:
        """Time of all epochs, those before a resume included."""
        return float(sum(row["seconds"] for row in self.rows))


class Metrics:
    """The rows of a run, and their file `metrics.csv` if there is a folder.

    A resumed run takes over the rows up to its checkpoint; a kill may have left one more. A run
    from the start takes away the checkpoint that is there, which would not belong to its rows.

    Raises:
        ValueError: the file lacks rows of epochs that the checkpoint has done.
    """

    def __init__(self, out: Path | None, done: int) -> None:
        self.path = None if out is None else out / METRICS
        self.rows: list[dict[str, float]] = []
        if self.path is None:
            return
        if done > 0:
            self.rows = self._read(self.path, done)
        else:
            (self.path.parent / CHECKPOINT).unlink(missing_ok=True)
        unfinished = self.path.with_name(METRICS + ".unfinished")
        self._write(unfinished, self.rows, "w")
        unfinished.replace(self.path)

    def append(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        if self.path is not None:
            self._write(self.path, [row], "a")

    @staticmethod
    def _read(path: Path, done: int) -> list[dict[str, float]]:
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))[:done]
        if len(rows) < done:
            raise ValueError(
                f"out should hold {METRICS} with a row for each of the {done} epochs of its "
                f"checkpoint, {str(path)!r} had {len(rows)}"
            )
        return [{name: float(value) for name, value in row.items()} for row in rows]

    def _write(self, path: Path, rows: list[dict[str, float]], mode: str) -> None:
        with path.open(mode, newline="") as file:
            for row in rows:
                writer = csv.DictWriter(file, list(row))
                if row is self.rows[0]:
                    writer.writeheader()
                writer.writerow(row)


class Progress:
    """A bar in a terminal or a notebook; elsewhere (a log file) a line now and then.

    Args:
        label: What is trained.
        epochs: Number of epochs of the run.
        done: How many of them an earlier run has done.
        shown: False for no output at all.
    """

    seconds_between_lines = 10.0

    def __init__(self, label: str, epochs: int, done: int, shown: bool) -> None:
        self.label, self.epochs = label, epochs
        self.shown = shown
        self.bar: Any = None
        self.last_line = time.monotonic()
        if shown and (sys.stderr.isatty() or _in_a_notebook()):
            from tqdm.auto import tqdm

            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self.bar = tqdm(total=float(epochs), initial=done, desc=label, bar_format=layout)

    def step(self, steps_per_epoch: int) -> None:
        if self.bar is not None:
            self.bar.update(1 / steps_per_epoch)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Shows the row of the epoch that is over."""
        numbers = {name: f"{value:.4g}" for name, value in row.items() if name != "epoch"}
        number = int(row["epoch"])
        if self.bar is not None:
            del numbers["seconds"]  # the bar has a clock
            self.bar.n = number
            self.bar.set_postfix({"epoch": f"{number}/{self.epochs}", **numbers})
        elif self.shown and self._line_is_due(number):
            text = ", ".join(f"{name} {value}" for name, value in numbers.items())
            print(
                f"{self.label}: epoch {number}/{self.epochs}, {text}", file=sys.stderr, flush=True
            )

    def _line_is_due(self, number: int) -> bool:
        now = time.monotonic()
        due = number == self.epochs or now - self.last_line >= self.seconds_between_lines
        if due:
            self.last_line = now
        return due

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _in_a_notebook() -> bool:
    """Whether this is a kernel of Jupyter, and not a program that imported one."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on.

    Attributes:
        run: What makes it this run (model, objective, data, seed, ...), as JSON values.
        epoch: Number of epochs done.
        arrays: Weights, optimizer and random states, under names of the backend's choice.
        extra: Further state of the backend, as JSON values.
    """

    run: dict[str, Any]
    epoch: int
    arrays: dict[str, np.ndarray]
    extra: dict[str, Any]

    def save(self, out: Path) -> None:
        """Replaces the folder's checkpoint by this one, at once or not at all."""
        text = {"run": self.run, "epoch": self.epoch, "extra": self.extra}
        files.write(out / CHECKPOINT, self.arrays, text)

    @classmethod
    def find(cls, out: Path | None, run: Mapping[str, Any], epochs: int) -> Self | None:
        """The checkpoint of the folder, or None if there is none yet.

        Raises:
            ValueError: no folder was given, or the checkpoint is damaged, of another run, or of
                more epochs than `epochs`.
        """
        if out is None:
            raise ValueError("out should be the folder of the run to resume, was None")
        path = out / CHECKPOINT
        if not path.exists():
            return None
        arrays, text = files.read(path)
        if not {"run", "epoch", "extra"} <= set(text):
            raise ValueError(
                f"out should hold the checkpoint of a run, {str(path)!r} is another file"
            )
        difference = _difference("", text["run"], run)
        if difference:
            raise ValueError(
                f"resume should go on with the run of {str(path)!r}, whose {difference}"
            )
        if text["epoch"] > epochs:
            raise ValueError(
                f"epochs should be at least the {text['epoch']} that the run of {str(path)!r} has "
                f"done, was {epochs}"
            )
        return cls(text["run"], int(text["epoch"]), arrays, text["extra"])


def _difference(name: str, was: Any, now: Any) -> str:
    """The first thing in which two descriptions differ, by its path; "" if there is none."""
    if was == now:
        return ""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return f"{name} was {was!r}, but {name} is now {now!r}"
    inner = (
        _difference(f"{name}.{key}" if name else key, was.get(key), now.get(key))
        for key in {**now, **was}
    )
    return next(text for text in inner if text)


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts with `prefix` and a dot, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def fingerprint(data: Any) -> list[Any]:
    """Shape, checksum and whether it is drawn anew, of each array: a resumed run's data."""
    prints = []
    for value in data:
        checksum = 0
        for array in value.parameters if drawn_by(value) else (as_numpy(value),):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        prints.append([list(value.shape), checksum, drawn_by(value) is not None])
    return prints


def plain(value: Any) -> Any:
    """An argument of a run as a JSON value."""
    if isinstance(value, tuple):
        return list(value)
    return value.describe() if isinstance(value, Remembers) else value


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
        if isinstance(value, bool | int | float | str | list | tuple | Remembers | None):
            about[key] = plain(value)
        elif hasattr(value, "loss_and_state"):
            about[key] = _describe_objective(value)
    return {"class": type(objective).__name__, **about}
