"""`benchmarks/soak.py` on a small scale: kills, long runs, and that it sees what differs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # where scripts find others

import soak
import soak_runs

from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import CHECKPOINT
from ppl_vae.shared.training.metrics import METRICS


def run_soak(*words: str) -> str:
    command = [sys.executable, soak.__file__, *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.slow
def test_kills() -> None:
    printed = run_soak("kill", "--kills", "3", "--runs", "pyro-labels", "--epochs", "30")
    assert "3 kills" in printed
    assert "1 of 1 runs as if there had been none" in printed


@pytest.mark.slow
def test_long_runs() -> None:
    printed = run_soak("load", "--steps", "3000", "--models", "20", "--no-compile")
    assert printed.splitlines()[0].startswith("3000 steps: memory")


def finished(out: Path, value: float, row: str) -> Path:
    out.mkdir()
    safetensors_file.write(out / CHECKPOINT, {"model.w": np.array([value])}, {"epoch": 1})
    (out / METRICS).write_text(f"epoch,loss,seconds\n{row}\n")
    return out


@pytest.mark.parametrize(
    ("value", "row", "found"),
    [
        (1.0, "1,0.5,9", []),
        (np.nextafter(1.0, 2.0), "1,0.5,3", ["model.w"]),
        (-0.0, "1,0.5,3", ["model.w"]),
        (1.0, "1,0.6,3", [METRICS]),
    ],
)
def test_what_differs_is_seen(value: float, row: str, found: list[str], tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", 1.0, "1,0.5,3")
    assert soak.differences(whole, finished(tmp_path / "parts", value, row)) == found


def test_the_runs_are_of_both_backends_eager_and_compiled() -> None:
    kinds = {(run.backend, run.settings.get("compile")) for run in soak_runs.RUNS.values()}
    assert kinds == {("pyro", False), ("pyro", True), ("numpyro", None)}
