"""Flags that no script of examples/ can use: refused in one line, before anything is trained."""

import sys
from pathlib import Path
from typing import Any

import pytest
from example_support import EXAMPLES, Run, refused

import ppl_vae.data
import ppl_vae.inference.training.fit

SHARED = ("__init__.py", "cli.py", "density.py")
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in SHARED)

OF_LAYERS = ("dlgm.py", "hierarchical_vae.py", "ladder.py", "sbn.py")
"""Those with a size for each of several layers of latents."""


def not_yet(*_: Any, **__: Any) -> None:
    raise AssertionError("too late")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--out {file}", "out should be a folder that can be written to, was '{file}'"),
        ("--out {file}/new", "out should be a folder that can be written to, was '{file}/new'"),
        ("--seed 4294967296", "seed should be below 2**31, was 4294967296"),
        ("--z-dim 4294967296", "_dim should be below 2**31, was 4294967296"),
        ("--lr nan", "lr should be a finite number, was nan"),
    ],
)
def test_what_is_wrong_in_any_script_is_said_before_it_loads_data(
    script: str,
    flags: str,
    says: str,
    run_example: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(ppl_vae.data, "digits", not_yet)
    given = flags.format(file=file).split()
    if given[0] == "--z-dim" and script in OF_LAYERS:
        given, says = ["--z-dims", given[1], given[1]], says.replace("_dim", "z_dims")
    if given[0] == "--lr" and script == "m1_m2.py":
        given = [*given, "1e-3"]
    refused(run_example(script, *given), says.format(file=file))


NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 256 bytes"


def raising(error: Exception) -> Any:
    def call(*_: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_sizes_for_which_there_is_no_memory_get_one_line(
    kind: type[Exception], run_example: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_vae.data, "digits", raising(kind(NO_MEMORY + "\nin C++")))
    done = run_example("iwae.py")
    refused(done, f"iwae.py: error: flags should ask for less memory ({NO_MEMORY})\n")


def test_a_fault_of_the_program_keeps_its_traceback(
    run_example: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_vae.data, "digits", raising(RuntimeError("shapes cannot be joined")))
    with pytest.raises(RuntimeError, match="shapes cannot be joined"):
        run_example("iwae.py")


# What would be used when another model is trained already.
LATE = {
    "cvae_quadrants.py": {
        "--z-dim -1": "z_dim should be a whole number of at least 1, was -1",
        "--baseline-epochs 0": "epochs should be a whole number of at least 1, was 0",
        "--alpha -1": "alpha should be a number in [0, 1], was -1.0",
    },
    "dlgm.py": {"--missing -1": "missing should be a number in [0, 1], was -1.0"},
    "hierarchical_vae.py": {
        "--z-dims -1 2": "z_dims should be a whole number of at least 1, was -1",
        "--hidden 4 0": "hidden should be a whole number of at least 1, was 0",
    },
    "ladder.py": {
        "--layers 1 2 --z-dims 3 0 --hidden 4 4": "should be a whole number of at least 1, was 0",
    },
    "m1_m2.py": {
        "--alpha -1": "alpha should be at least 0, was -1.0",
        "--labelled-per-batch 0": "labelled_per_batch should be a whole number of at least 1",
        "--labels": "labels should be at least one, was none",
        "--labels 20 7": "n_labels should be in 10..1097",
        "--z-dim 0": "z_dim should be a whole number of at least 1, was 0",
        "--hidden 0": "hidden should be a whole number of at least 1, was 0",
        "--batch-size 0": "batch_size should be a whole number of at least 1, was 0",
        "--lr 0 1e-3": "start should be a positive number, was 0.0",
        "--joint-lr 0": "joint_lr should be a positive number, was 0.0",
    },
    "semi_supervised.py": {
        "--alpha -1": "alpha should be at least 0, was -1.0",
        "--z-dim 0": "z_dim should be a whole number of at least 1, was 0",
        "--batch-size 0": "batch_size should be a whole number of at least 1, was 0",
        "--lr 0": "lr should be a positive number, was 0.0",
        "--hidden": "hidden should name a layer to join 2 inputs",
    },
    "vhp.py": {
        "--tolerance 1e999": "tolerance should be a finite number, was inf",
        "--k-prior 0": "k should be a whole number of at least 1, was 0",
        "--beta 0": "start should be",
        "--rate 0": "rate should be a positive number, was 0.0",
        "--zeta-dim 0": "should be a whole number of at least 1, was 0",
        "--neighbours 0": "n_neighbours should be a whole number of at least 1, was 0",
        "--nodes 18": "n_neighbours should be below the number of nodes, 18, was 18",
    },
}
ROWS = [(script, flags) for script, rows in LATE.items() for flags in rows]


@pytest.mark.parametrize(("script", "flags"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_what_is_used_late_is_refused_before_anything_is_trained(
    script: str, flags: str, run_example: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ppl_vae.inference.training.fit"], "Trainer", not_yet)
    refused(run_example(script, *flags.split()), LATE[script][flags])
