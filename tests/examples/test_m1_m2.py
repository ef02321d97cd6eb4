"""examples/m1_m2.py as a user runs it, and its parts by number."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from example_support import Run, drawn, help_of, refused, trained_nothing

from ppl_vae.models import M1, M2

SCRIPT = "m1_m2.py"
EPOCHS = ("--m1-epochs", "8", "--m1-batch-size", "100", "--epochs", "2", "--batch-size", "300")
SHORT = (
    *EPOCHS,
    "--splits",
    "1",
    "--labels",
    "20",
    "30",
    "--hidden",
    "8",
    "--m1-hidden",
    "32",
)
PICTURES = {"errors.png", "curves.png", "features.png", "analogies.png"}


@pytest.fixture
def run(run_example: Run) -> Run:
    """Runs the script with short flags before these."""
    return partial(run_example, SCRIPT, *SHORT)


@pytest.fixture
def script(contents_of: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What the script defines."""
    return contents_of(SCRIPT)


@pytest.mark.slow
def test_help_in_a_fresh_process() -> None:
    text = help_of(SCRIPT, "--data", "mnist")
    assert "(default: mnist)" in text
    for flag in ("--labels", "--m1-epochs", "--joint-epochs", "--alpha", "--device", "--resume"):
        assert flag in text


@pytest.mark.slow
def test_a_short_run(run: Run, tmp_path: Path) -> None:
    done = run("--joint-epochs", "1")
    assert done.status == 0, done.err
    for text in ("1097 training images", "M1 + SVM", "M1+M2, joint"):
        assert text in done.out
    assert "joint, 30 labels, split 1/1: epoch 1/1" in done.err
    drawn(done, tmp_path, PICTURES)
    features = M1.load(tmp_path / "m1.safetensors").features(np.zeros((3, 64), np.float32))[0]
    for n in (20, 30):
        assert M2.load(tmp_path / f"m2_{n}.safetensors").predict(features).shape == (3,)

    trained_nothing(run("--joint-epochs", "1", "--resume"), done)


def test_no_joint_training_by_default(run: Run, tmp_path: Path) -> None:
    done = run("--labels", "20")
    assert done.status == 0, done.err
    assert "M1+M2, joint" not in done.out
    assert not (tmp_path / "joint").exists()


WRONG = {
    "unknown data": (("--data", "cifar"), "digits"),
    "fewer labels than classes": (("--labels", "20", "9"), "n_labels should be in 10..1097"),
    "no splits": (("--splits", "0"), "splits should be at least 1, was 0"),
    "no joint training": (("--joint-epochs", "-1"), "joint_epochs should be at least 0, was -1"),
    "no epochs of M1": (("--m1-epochs", "0"), "epochs should be a whole number of at least 1"),
    "no warm-up": (("--m1-warmup", "0"), "epochs should be a whole number of at least 1, was 0"),
    "no step": (("--m1-lr", "0", "1"), "start should be a positive number, was 0.0"),
    "no latents": (("--m1-z-dim", "0"), "of at least 1, was 0"),
    "negative alpha": (("--alpha", "-1"), "alpha should be at least 0, was -1.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags_get_one_message(name: str, run: Run) -> None:
    flags, message = WRONG[name]
    refused(run(*flags), message)


def test_m1_without_inactive_features(script: dict[str, Any]) -> None:
    settings = script["Settings"](m1_z_dim=4, m1_hidden=(6,))
    torch.manual_seed(0)
    m1 = M1(5, 4, (6,))
    with torch.no_grad():
        m1.encoder.loc.weight.mul_(20)
        m1.encoder.loc.weight[[0, 2]] = 0  # these means are the same for all images
    x = np.random.default_rng(0).random((50, 5), dtype=np.float32)
    kept = [1, 3]
    small = script["without_inactive"](settings, m1, x)
    for mean, all_means in zip(small.features(x), m1.features(x), strict=True):
        torch.testing.assert_close(mean, all_means[:, kept])
    z = torch.randn(7, 4)
    z[:, [0, 2]] = 0
    torch.testing.assert_close(small.decoder(z[:, kept]).mean, m1.decoder(z).mean)


def test_table_and_errors_by_hand(script: dict[str, Any]) -> None:
    """Two splits with errors of 1 and 3 per cent: 2 on average, with a standard error of 1."""
    settings = script["Settings"](labels=(50,), splits=2)
    results = {"M1+M2": {50: [script["Result"](1.0), script["Result"](3.0)]}}
    ax = script["errors"](settings, results).axes[0]
    ((_, low), (_, high)) = ax.collections[0].get_segments()[0]
    plt.close("all")
    assert (low, high) == pytest.approx((1.0, 3.0))
    assert script["error"](Constant(), np.zeros((4, 1)), np.array([0, 1, 1, 1])) == 0.75


class Constant:
    """Puts everything into class 0."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.zeros(len(x), np.int64)
