"""Speed of compiled and eager steps against an earlier commit of this repository.

    python benchmarks/speed_since.py COMMIT --cases vae-64 vae-200 m2

The earlier commit is checked out into a temporary folder. Both versions run the case of their own
`speed.py` in turn, each time in a process of its own; ratios are of medians over rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from contenders import OURS
from processes import row

ROOT = Path(__file__).parents[1]
BAR = 1.03


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def milliseconds(checkout: Path, case: str, contender: str, seconds: float) -> float:
    """Measure the median time of a step of the code in a checkout, in a process of its own."""
    flags = ["--cases", case, "--contender", contender, "--seconds", str(seconds)]
    command = [sys.executable, str(checkout / "benchmarks" / "speed.py"), *flags]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    run = subprocess.run(command, capture_output=True, text=True, env=env, cwd=checkout)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr}")
    return float(json.loads(run.stdout.splitlines()[-1]))


def main(
    commit: Annotated[str, tyro.conf.Positional],
    cases: tuple[str, ...] = ("vae-64", "vae-200", "m2"),
    contender: str = OURS,
    rounds: int = 5,
    seconds: float = 3.0,
) -> None:
    """Compare the present code with an earlier commit.

    Args:
        commit: The earlier commit.
        cases: Cases of `speed.py` whose unit is milliseconds per step.
        contender: The contender of `speed.py` to run.
        rounds: Processes per version and case.
        seconds: Measuring time of each process.
    """
    print(f"{contender}: milliseconds per step, now against {commit}, {rounds} rounds")
    with checked_out(commit) as before:
        for case in cases:
            times: dict[Path, list[float]] = {before: [], ROOT: []}
            for _ in range(rounds):
                for checkout, values in times.items():
                    values.append(milliseconds(checkout, case, contender, seconds))
            was, now = (statistics.median(values) for values in times.values())
            spread = ", ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(*times.values(), strict=True))
            print(row(case, f"{now:.3f} ms", now / was, BAR, f"(before / now: {spread})"))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
