"""What the comparisons of speed share: contenders in processes of their own, in turn."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def compare(
    script: str, contenders: Iterable[str], rounds: int, flags: Mapping[str, Any]
) -> dict[str, float]:
    """Runs `script --contender NAME` for each in turn, prints the times, and gives their medians.

    Args:
        script: The file of the comparison; with --contender it prints seconds by `report`.
        contenders: The names.
        rounds: Processes of each.
        flags: Further flags of the script, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    for _ in range(rounds):
        for name, times in seconds.items():
            command = [sys.executable, script, "--contender", name, *words]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            times += json.loads(run.stdout.splitlines()[-1])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        shown = " ".join(f"{time:.2f}" for time in times)
        print(f"{name:12} median {medians[name]:6.2f} s per epoch   ({shown})")
    return medians


def report(seconds: list[float]) -> None:
    """What a contender prints."""
    print(json.dumps(seconds))
