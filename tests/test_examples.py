"""The examples as a user runs them: short runs, both backends, and what wrong flags say."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from ppl_vae import M2

SCRIPT = Path(__file__).parent.parent / "examples/semi_supervised.py"
SHORT = ("--splits", "1", "--epochs", "2", "--baseline-epochs", "2", "--hidden", "8")
PICTURES = {"curves.png", "analogies.png", "reconstructions.png"}


@dataclass(frozen=True)
class Done:
    """What a run printed, and its exit status."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the script with these flags, and --out in the test's folder, in this process."""

    def go(*flags: str) -> Done:
        monkeypatch.syspath_prepend(SCRIPT.parent)  # as `python examples/...` does
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *SHORT, "--out", str(tmp_path), *flags])
        status = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            plt.close("all")
        return Done(status, *capsys.readouterr())

    return go


def test_help_in_a_fresh_process() -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), "--data", "mnist", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3000" in done.stdout  # the paper's epochs, because of --data mnist
    for flag in ("--labels", "--splits", "--alpha", "--device", "--resume", "--backend"):
        assert flag in done.stdout


@pytest.mark.parametrize("backend", ["pyro", "numpyro"])
def test_a_short_run(backend: str, run: Run, tmp_path: Path) -> None:
    if backend == "numpyro":
        pytest.importorskip("numpyro", reason="the NumPyro port is not installed")
    flags = ("--pretrained", "--backend", backend)
    done = run(*flags)
    assert done.status == 0, done.err
    assert "labels alone" in done.out
    assert "errors of the labels alone" in done.out
    assert "epoch 2/2" in done.err
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in done.out

    again = run(*flags, "--resume")
    assert again.out == done.out  # the times too: nothing was trained again
    assert "epoch" not in again.err


def test_a_file_of_the_example_is_a_model_of_the_library(run: Run, tmp_path: Path) -> None:
    assert run().status == 0
    assert M2.load(tmp_path / "m2.safetensors").n_classes == 10


WRONG = {
    "unknown data": (("--data", "cifar"), "digits"),
    "no number": (("--labels", "few"), "labels"),
    "fewer labels than classes": (("--labels", "9"), "n_labels should be in 10..1097"),
    "no splits": (("--splits", "0"), "splits should be at least 1, was 0"),
    "no epochs": (("--epochs", "0"), "epochs should be a whole number of at least 1, was 0"),
    "no batch": (("--batch-size", "0"), "batch_size should be a whole number of at least 1, was 0"),
    "negative alpha": (("--alpha", "-1"), "alpha should be at least 0, was -1.0"),
    "no step": (("--lr", "0"), "lr should be a positive number, was 0.0"),
    "no latents": (("--z-dim", "0"), "of at least 1, was 0"),
    "an empty layer": (("--hidden", "0"), "hidden should be a whole number of at least 1, was 0"),
    "certain dropout": (("--dropout", "1", "0"), "dropout should be two rates in [0, 1)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags_get_one_message(name: str, run: Run) -> None:
    flags, message = WRONG[name]
    refused(run(*flags), message)


def test_no_cuda_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(run("--device", "cuda"), "device should be one that torch sees, was 'cuda'")


def test_the_checkpoint_of_another_model(run: Run) -> None:
    assert run().status == 0
    refused(run("--resume", "--activation", "relu"), "resume should go on with the run of")


def test_a_damaged_mnist_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8b not an archive")
    refused(run("--data", "mnist"), "train-images-idx3-ubyte.gz")


def refused(done: Done, message: str) -> None:
    assert done.status == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
