"""Progress output of a run: a bar, or lines in a log."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Self


class Progress:
    """A progress bar in a terminal or notebook; otherwise occasional lines (a log file).

    Args:
        label: Name of the run.
        epochs: Number of epochs of the run.
        done: Number of epochs completed before a resume.
        shown: Whether to show anything.
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
        """Show the row of a completed epoch."""
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

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.bar is not None:
            self.bar.write(f"{self.label}: {text}", file=sys.stderr)
        elif self.shown:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)

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
    """Whether this runs in a Jupyter kernel, not in a program that imports one."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
