"""The quadrants example as a user runs it: which pixels are seen, a short run, wrong flags."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_support import Run, drawn, help_of, refused, trained_nothing

from ppl_vae import digits
from ppl_vae.data import Dynamic
from ppl_vae.models import CVAE, Baseline
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import part

SCRIPT = "cvae_quadrants.py"
SHORT = ("--epochs", "2", "--baseline-epochs", "2", "--hidden", "8", "--z-dim", "2", "--k", "3")
FEW = ("--quadrants", "1", "3", "--test-images", "20")


@pytest.fixture
def run(run_example: Run) -> Run:
    """Runs the script with short flags before these."""
    return partial(run_example, SCRIPT, *SHORT, *FEW)


@pytest.fixture
def script(contents_of: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What the script defines."""
    return contents_of(SCRIPT)


SEEN = {
    1: ["......", "......", "xxx...", "xxx..."],
    2: ["xxx...", "xxx...", "xxx...", "xxx..."],
    3: ["xxx...", "xxx...", "xxxxxx", "xxxxxx"],
}


@pytest.mark.parametrize("quadrants", SEEN)
def test_the_pixels_that_are_seen(quadrants: int, script: dict[str, Any]) -> None:
    expected = np.array([[pixel == "x" for pixel in row] for row in SEEN[quadrants]])
    assert np.array_equal(script["seen_pixels"]((4, 6), quadrants), expected.ravel())
    assert script["seen_pixels"]((28, 28), quadrants).sum() == 196 * quadrants


@pytest.mark.parametrize("binarisation", ["dynamic", "threshold"])
def test_condition_and_target_are_the_two_parts_of_an_image(
    binarisation: Any, script: dict[str, Any]
) -> None:
    images = digits(binarisation).test
    seen = script["seen_pixels"](images.image_shape, 1)
    c, x = script["parts"](images, seen)
    whole = images.x.probs if binarisation == "dynamic" else images.x
    assert np.array_equal(c, whole[:, seen])
    assert isinstance(x, Dynamic) == (binarisation == "dynamic")
    assert np.array_equal(getattr(x, "probs", x), whole[:, ~seen])
    drawn = x.sample(0) if isinstance(x, Dynamic) else x
    assert set(np.unique(drawn)) == {0.0, 1.0}


@pytest.mark.slow
def test_help_in_a_fresh_process() -> None:
    text = help_of(SCRIPT, "--data", "mnist")
    assert "10000" in text  # the defaults of --data mnist
    for flag in ("--quadrants", "--no-baseline", "--alpha", "--k", "--test-images", "--resume"):
        assert flag in text
    assert "three are hidden" in text


@pytest.mark.slow
def test_a_short_run(run: Run, tmp_path: Path) -> None:
    done = run("--alpha", "0.5", "--decoder-sees-c")
    assert done.status == 0, done.err
    assert "CVAE IS" in done.out
    assert "cvae, 3 seen: epoch 2/2" in done.err
    assert "paper" not in done.out  # whose numbers are on MNIST
    drawn(done, tmp_path, ("curves.png", "completions_1.png", "completions_3.png"))
    first = Baseline.load(tmp_path / "baseline_1.safetensors")
    model = CVAE.load(tmp_path / "cvae_1.safetensors")
    assert (first.c_dim, first.x_dim) == (model.c_dim, model.x_dim) == (16, 48)
    arrays, _ = safetensors_file.read(tmp_path / "baseline_1" / "checkpoint.safetensors")
    for name, value in part(arrays, "model.baseline").items():  # the CVAE did not train it on
        assert np.array_equal(model.baseline.state_dict()[name], value)
        assert np.array_equal(first.baseline.state_dict()[name], value)

    trained_nothing(run("--alpha", "0.5", "--decoder-sees-c", "--resume"), done)


def test_without_a_baseline(run: Run, tmp_path: Path) -> None:
    done = run("--no-baseline", "--quadrants", "2", "--binarisation", "threshold")
    assert done.status == 0, done.err
    assert "no baseline" in done.out
    assert CVAE.load(tmp_path / "cvae_2.safetensors").baseline is None
    assert not list(tmp_path.glob("baseline*"))


WRONG = {
    "four quadrants": (("--quadrants", "4"), "quadrants should be 1, 2 or 3, those that are seen"),
    "no quadrant": (("--quadrants", "1", "0"), "that are seen, was 0"),
    "no number of quadrants": (("--quadrants",), "quadrants should be at least one of 1, 2, 3"),
    "unknown data": (("--data", "cifar"), "digits"),
    "grey targets": (("--binarisation", "none"), "binarisation"),
    "no epochs": (("--baseline-epochs", "0"), "epochs should be a whole number of at least 1"),
    "no draws": (("--k", "0"), "k should be a whole number of at least 1, was 0"),
    "too many images": (("--test-images", "999"), "test_images should be at most 500, was 999"),
    "alpha": (("--alpha", "1.5"), "alpha should be a number in [0, 1], was 1.5"),
    "no latents": (("--z-dim", "0"), "of at least 1, was 0"),
    "no step": (("--lr", "0"), "should be a positive number, was 0.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags_get_one_message(name: str, run: Run) -> None:
    flags, message = WRONG[name]
    refused(run(*flags), message)


def test_the_checkpoint_of_another_run(run: Run) -> None:
    assert run("--quadrants", "1").status == 0
    done = run("--quadrants", "1", "--resume", "--activation", "tanh")
    refused(done, "cannot resume")
