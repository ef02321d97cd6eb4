"""The metrics of a run, one row per epoch, and their file."""

import csv
import io
import math
import os
from pathlib import Path

from ppl_vae.shared.io import safetensors_file

METRICS = "metrics.csv"


class Metrics:
    """The rows of a run, and their file `metrics.csv` if there is a folder.

    A resumed run keeps the rows up to its checkpoint; a killed run may have left one more, or part
    of one. Each row is on disk before the checkpoint of its epoch.

    Raises:
        ValueError: The file lacks rows of completed epochs.
    """

    def __init__(self, out: Path | None, done: int) -> None:
        self.path = None if out is None else out / METRICS
        self.rows: list[dict[str, float]] = []
        if self.path is not None:
            self.rows = self._read(self.path, done) if done > 0 else []
            safetensors_file.replace(self.path, self._as_text(self.rows).encode())

    def append(self, row: dict[str, float]) -> None:
        """Append a row.

        A resumed run with another `on_nan` may report other columns than before; missing values
        are NaN.

        Raises:
            OSError: The file, which is named, could not be written.
        """
        first = self.rows[0] if self.rows else row
        columns = list(dict.fromkeys([*first, *row]))
        row = {name: row.get(name, math.nan) for name in columns}
        self.rows.append(row)
        if len(columns) > len(first):
            self.rows = [{name: old.get(name, math.nan) for name in columns} for old in self.rows]
            if self.path is not None:
                safetensors_file.replace(self.path, self._as_text(self.rows).encode())
            return
        if self.path is None:
            return
        with safetensors_file.named(self.path), self.path.open("a", newline="") as file:
            file.write(self._as_text([row]))
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _read(path: Path, done: int) -> list[dict[str, float]]:
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a killed run may leave a partial line
        rows = list(csv.DictReader(io.StringIO(whole, newline="")))[:done]
        if len(rows) < done:
            raise ValueError(
                f"out should hold {METRICS} with a row for each of the {done} epochs of its "
                f"checkpoint, {str(path)!r} had {len(rows)}"
            )
        try:
            numbers = [{name: float(value) for name, value in row.items()} for row in rows]
            if [row["epoch"] for row in numbers] != list(range(1, done + 1)):
                raise ValueError("its epochs are others")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"out should hold {METRICS} with numbers of the epochs 1 to {done}, {str(path)!r} "
                f"is damaged ({error})"
            ) from error
        return numbers

    def _as_text(self, rows: list[dict[str, float]]) -> str:
        text = io.StringIO(newline="")
        for row in rows:
            writer = csv.DictWriter(text, list(row))
            if row is self.rows[0]:
                writer.writeheader()
            writer.writerow(row)
        return text.getvalue()
