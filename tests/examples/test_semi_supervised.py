"""The semi-supervised example as a user runs it: both backends, and what wrong flags say."""

from functools import partial
from pathlib import Path

import pytest
import torch
from example_support import Run, drawn, help_of, refused, trained_nothing

from ppl_vae import M2

SCRIPT = "semi_supervised.py"
SHORT = ("--splits", "1", "--epochs", "2", "--baseline-epochs", "2", "--hidden", "8")
PICTURES = {"curves.png", "analogies.png", "reconstructions.png"}


@pytest.fixture
def run(run_example: Run) -> Run:
    """Runs the script with short flags before these."""
    return partial(run_example, SCRIPT, *SHORT)


def test_help_in_a_fresh_process() -> None:
    text = help_of(SCRIPT, "--data", "mnist")
    assert "3000" in text  # the paper's epochs, because of --data mnist
    for flag in ("--labels", "--splits", "--alpha", "--device", "--resume", "--backend"):
        assert flag in text


@pytest.mark.parametrize("backend", ["pyro", pytest.param("numpyro", marks=pytest.mark.slow)])
def test_a_short_run(backend: str, run: Run, tmp_path: Path) -> None:
    if backend == "numpyro":
        pytest.importorskip("numpyro", reason="the NumPyro port is not installed")
    flags = ("--pretrained", "--backend", backend)
    done = run(*flags)
    assert done.status == 0, done.err
    assert "labels alone" in done.out
    assert "errors of the labels alone" in done.out
    assert "epoch 2/2" in done.err
    drawn(done, tmp_path, PICTURES)
    trained_nothing(run(*flags, "--resume"), done)


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
    refused(run("--resume", "--activation", "relu"), "cannot resume")


def test_a_damaged_mnist_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8b not an archive")
    refused(run("--data", "mnist"), "train-images-idx3-ubyte.gz")
