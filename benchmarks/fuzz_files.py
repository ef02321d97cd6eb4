"""Fuzzing of everything that reads a file: corrupted files are read right or refused.

    python benchmarks/fuzz_files.py --minutes 10

The mutations are in `tests/support/hostile_files.py`, which needs the test tools (`make test`
installs them). The first file that is neither read right nor refused ends the run and stays in the
folder; the printed seed reproduces it.
"""

import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from hostile_files import TARGETS

SECONDS_EACH = 2.0
"""Seconds per kind of file in turn, so that a slow kind takes no more than its share."""


def fuzz(minutes: float, seed: int = 0) -> Counter[tuple[str, str]]:
    """Count how often files of a kind were "read" or "refused".

    Raises:
        RuntimeError: neither; names the kind of file, the seed and the folder.
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + 60 * minutes
    logging.disable(logging.WARNING)  # of checkpoints that are gone back from
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    while time.monotonic() < end:
        for name, target in TARGETS.items():
            until = min(end, time.monotonic() + SECONDS_EACH)
            while time.monotonic() < until:
                seed += 1
                try:
                    outcomes[name, target(random.Random(seed), folder)] += 1
                except Exception as error:
                    raise RuntimeError(f"{name}, seed {seed}, in {folder}: {error}") from error
    return outcomes


def main(minutes: float = 10.0, seed: int = 0) -> None:
    """Read randomly corrupted files, and count how many were read and how many refused.

    Args:
        minutes: Duration.
        seed: Random seed of the corruptions.
    """
    outcomes = fuzz(minutes, seed)
    for name in TARGETS:
        read, refused = (outcomes[name, what] for what in ("read", "refused"))
        print(f"{name}: {read} read right, {refused} refused")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
