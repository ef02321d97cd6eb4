"""Contenders in processes of their own, in turn, and what they report."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEFT_OUT = "left out"


class LeftOut(Exception):
    """A contender that cannot run here; the message says why."""


@dataclass
class Found:
    """What the processes reported.

    Attributes:
        values: Contender -> what each of its processes reported.
        left_out: Contender -> why it did not run.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def median(self, contender: str, name: str | None = None) -> float:
        """Over rounds, of what was reported or of its entry `name`."""
        values = self.values[contender]
        return statistics.median(values if name is None else [value[name] for value in values])


def in_turn(script: str, contenders: Iterable[str], rounds: int, flags: Mapping[str, Any]) -> Found:
    """Runs `script --contender NAME` for each in turn, round by round.

    Args:
        script: With --contender it ends with what `report` prints.
        contenders: The names.
        rounds: Processes of each.
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
    """What the script reports in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    run = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def report(value: Any) -> None:
    """What a contender prints."""
    print(json.dumps(value))


def compare_epochs(
    script: str, contenders: Iterable[str], rounds: int, flags: Mapping[str, Any]
) -> dict[str, float]:
    """The median epoch of each contender, which reports the seconds of its epochs; printed."""
    medians = {}
    for name, processes in in_turn(script, contenders, rounds, flags).values.items():
        times = [seconds for process in processes for seconds in process]
        medians[name] = statistics.median(times)
        shown = " ".join(f"{seconds:.2f}" for seconds in times)
        print(f"{name:12} median {medians[name]:6.2f} s per epoch   ({shown})")
    return medians


def row(name: str, value: str, ratio: float | None, bar: float | None, more: str = "") -> str:
    """A line of a table: what was measured, a ratio, the bar, and whether it was reached."""
    cells = f"  {name:44}{value:>12}"
    if ratio is not None:
        cells += f"{ratio:>11.3f}"
    if ratio is not None and bar is not None:
        cells += f"   bar {bar:.2f}: {'reached' if ratio <= bar else 'not reached'}"
    return f"{cells}   {more}".rstrip()


def left_out(name: str, why: str) -> str:
    return f"  {name:44}left out: {why}"
