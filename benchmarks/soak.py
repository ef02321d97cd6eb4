"""Long-running fault tests: kills at random moments, long runs, corrupted files.

    python benchmarks/soak.py kill      100 kills over all runs of soak_runs.py
    python benchmarks/soak.py load      200 000 steps in one run, and 300 models in one process
    python benchmarks/soak.py fuzz      corrupted files for ten minutes

They need the test tools and the port, which `make test` installs. Each ends with exit code 1 if
a promise of docs/reliability.md was broken.
"""

import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import fuzz_files
import numpy as np
import tyro
from soak_runs import RUNS, train

from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import CHECKPOINT
from ppl_vae.shared.training.metrics import METRICS


def differences(a: Path, b: Path) -> list[str]:
    """Return the differences of two finished runs: arrays and text of checkpoints, metrics."""
    (arrays, text), (others, other_text) = (
        safetensors_file.read(out / CHECKPOINT) for out in (a, b)
    )
    found = [
        name
        for name in sorted({*arrays, *others})
        if not (name in arrays and name in others and _same(arrays[name], others[name]))
    ]
    if text != other_text:
        found.append("text")
    return found if _rows(a) == _rows(b) else [*found, METRICS]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _rows(out: Path) -> list[str]:
    """Return the rows without the seconds, which come last."""
    return [line.rsplit(",", 1)[0] for line in (out / METRICS).read_text().splitlines()]


@dataclass
class Victim:
    """A run that is killed repeatedly, and compared with an uninterrupted one.

    Attributes:
        name: Name of the run.
        folder: Folder for its files.
        epochs: Number of epochs.
        seconds: Duration of the whole run, without its start.
        kills: Number of kills so far.
        faults: Failures found.
    """

    name: str
    folder: Path
    epochs: int
    seconds: float = 0.0
    kills: int = 0
    finished: int = 0
    faults: list[str] = field(default_factory=list)

    def start(self, out: str) -> subprocess.Popen[str]:
        """Start a process, and wait until it trains in the folder `out`."""
        words = [self.name, str(self.folder / out), str(self.epochs)]
        command = [sys.executable, __file__, "train", *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def run_whole(self) -> None:
        process = self.start("whole")
        begun = time.perf_counter()
        _, errors = process.communicate()
        self.seconds = time.perf_counter() - begun
        if process.returncode != 0:
            raise SystemExit(f"{self.name} failed: {errors}")

    def run_killed(self, kills: int, generator: random.Random) -> None:
        """Kill and resume the run until it was killed this often, then let it finish."""
        while True:
            process = self.start(f"parts-{self.finished}")
            if self.kills < kills:
                try:
                    # More often than not before its end, so that runs are killed several times.
                    process.wait(generator.uniform(0, 0.6 * self.seconds))
                    self.seconds *= 0.7  # it was faster than the whole run
                except subprocess.TimeoutExpired:
                    process.kill()
                    self.kills += 1
                    process.communicate()
                    continue
            _, errors = process.communicate()
            if process.returncode != 0:
                self.faults.append(errors.strip().splitlines()[-1])
                return
            self.faults += differences(
                self.folder / "whole", self.folder / f"parts-{self.finished}"
            )
            self.finished += 1
            if self.kills >= kills:
                return


def kill(
    kills: int = 100, runs: tuple[str, ...] = tuple(RUNS), epochs: int = 60, seed: int = 0
) -> None:
    """Kill runs by SIGKILL at random moments, resume them, and compare the results bit by bit.

    Args:
        kills: Number of kills over all runs.
        runs: Names in `soak_runs.RUNS`.
        epochs: Number of epochs of each.
        seed: Random seed of the moments.
    """
    generator, failed, done = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(runs):
            victim = Victim(name, Path(folder) / name, epochs)
            victim.run_whole()
            share = kills * (number + 1) // len(runs) - kills * number // len(runs)
            victim.run_killed(share, generator)
            failed += bool(victim.faults)
            done += victim.kills
            verdict = "differs: " + ", ".join(victim.faults) if victim.faults else "bit for bit"
            print(
                f"{name:28} {victim.kills:4} kills, {victim.finished} ends, {verdict}", flush=True
            )
    print(f"{done} kills, {len(runs) - failed} of {len(runs)} runs as if there had been none")
    raise SystemExit(failed > 0)


@dataclass
class Watched:
    """Resources used by this process."""

    memory: float
    files: int

    @classmethod
    def now(cls) -> "Watched":
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")))


def load(steps: int = 200_000, models: int = 300, compile: bool = True) -> None:
    """Check that memory and open files do not grow in a long run and over many short ones.

    Args:
        steps: Number of steps of a tiny model, with a checkpoint, a validation and a row of metrics
            every 500 steps.
        models: Number of models that are built, trained and discarded.
        compile: Whether the long run is compiled.
    """
    import torch

    from ppl_vae import VAE, fit

    torch.set_num_threads(1)
    x = (np.random.default_rng(0).random((1000, 6)) < 0.5).astype(np.float32)
    seen: list[Watched] = []

    def validation(model: Any) -> dict[str, float]:
        seen.append(Watched.now())
        return {"memory": seen[-1].memory}

    with tempfile.TemporaryDirectory() as out:
        model, epochs = VAE(6, 2, (8,)), max(steps // 500, 3)
        settings: dict[str, Any] = {"batch_size": 2, "compile": compile, "progress": False}
        fit(model, x, epochs=epochs, out=out, validation=validation, device="cpu", **settings)
    first, last = seen[2], seen[-1]  # after 1000 steps and two more looks
    growth = last.memory - first.memory
    print(f"{epochs * 500} steps: memory {growth:+.1f} MB, files {last.files - first.files:+d}")
    good = growth < 5 and last.files == first.files
    for number in range(models):
        model = VAE(6, 2, (8,))
        fit(model, x, epochs=1, batch_size=100, device="cpu", compile=False, progress=False)
        if number in (models // 10, models - 1):
            seen.append(Watched.now())
    before, after = seen[-2:]
    growth = after.memory - before.memory
    print(f"{models} models: memory {growth:+.1f} MB, files {after.files - before.files:+d}")
    raise SystemExit(not (good and growth < 5 and after.files == before.files))


def train_one(
    name: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    epochs: Annotated[int, tyro.conf.Positional],
) -> None:
    """Run the process that `kill` kills.

    Args:
        name: Name of the run.
        out: Folder of the run.
        epochs: Number of epochs.
    """
    train(name, out, epochs)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"kill": kill, "load": load, "fuzz": fuzz_files.main, "train": train_one},
        description=__doc__,
    )
