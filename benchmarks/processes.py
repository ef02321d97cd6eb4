"""Contenders in separate processes, run in turn, and their reports."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEFT_OUT = "left out"


class LeftOut(Exception):
    """Raised by a contender that cannot run here; the message says why."""


@dataclass
class Found:
    """Reports of the processes.

    Attributes:
        values: Contender -> the report of each of its processes.
        left_out: Contender -> why it did not run.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def median(self, contender: str, name: str | None = None) -> float:
        """Return the median over rounds of the reports, or of their entry `name`."""
        values = self.values[contender]
        return statistics.median(values if name is None else [value[name] for value in values])


def in_turn(script: str, contenders: Iterable[str], rounds: int, flags: Mapping[str, Any]) -> Found:
    """Run `script --contender NAME` for each contender in turn, round by round.

    Args:
        script: Script that calls `report` at its end if --contender is given.
        contenders: Names of the contenders.
        rounds: Number of processes per contender.
        flags: Further flags of the script, by name.
    """
    found = Found()
    names = list(contenders)
    for _ in range(rounds):
        for name in names:
            if name in found.left_out:
                continue
            value = alone(script, {"contender": name, **flags})
            if isinstance(value, dict) and LEFT_OUT in value:
                found.left_out[name] = value[LEFT_OUT]
            else:
                found.values.setdefault(name, []).append(value)
    return found


def alone(script: str, flags: Mapping[str, Any]) -> Any:
    """Return the report of the script, run in a process of its own.

    Raises:
        RuntimeError: the script failed; with its output.
    """
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    run = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def report(value: Any) -> None:
    """Print the report of a contender."""
    print(json.dumps(value))


def compare_epochs(
    script: str, contenders: Iterable[str], rounds: int, flags: Mapping[str, Any]
) -> dict[str, float]:
    """Print the median epoch of each contender, which reports the seconds of its epochs."""
    medians = {}
    for name, processes in in_turn(script, contenders, rounds, flags).values.items():
        times = [seconds for process in processes for seconds in process]
        medians[name] = statistics.median(times)
        shown = " ".join(f"{seconds:.2f}" for seconds in times)
        print(f"{name:12} median {medians[name]:6.2f} s per epoch   ({shown})")
    return medians


def row(name: str, value: str, ratio: float | None, bar: float | None, more: str = "") -> str:
    """Return a line of a table: measurement, ratio, bar, and whether it was reached."""
    cells = f"  {name:44}{value:>12}"
    if ratio is not None:
        cells += f"{ratio:>11.3f}"
    if ratio is not None and bar is not None:
        cells += f"   bar {bar:.2f}: {'reached' if ratio <= bar else 'not reached'}"
    return f"{cells}   {more}".rstrip()


def left_out(name: str, why: str) -> str:
    return f"  {name:44}left out: {why}"
