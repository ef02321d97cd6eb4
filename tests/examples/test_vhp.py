"""The VHP example as a user runs it: a short run, what it draws, wrong flags."""

from functools import partial
from pathlib import Path

import pytest
from example_support import Run, drawn, help_of, refused, trained_nothing

from ppl_vae.models import VHP, Model

SCRIPT = "vhp.py"
SHORT = ("--epochs", "2", "--hidden", "8", "--z-dim", "3", "--zeta-dim", "2", "--k", "3")
FEW = ("--test-images", "20", "--nodes", "60", "--k-prior", "2")
PICTURES = ("curves.png", "latents.png", "interpolations.png")


@pytest.fixture
def run(run_example: Run) -> Run:
    """Runs the script with short flags before these."""
    return partial(run_example, SCRIPT, *SHORT, *FEW)


@pytest.mark.slow
def test_help_in_a_fresh_process() -> None:
    text = help_of(SCRIPT, "--data", "mnist")
    assert "5000" in text  # draws per image, because of --data mnist
    for flag in ("--tolerance", "--k-prior", "--zeta-dim", "--neighbours", "--device", "--resume"):
        assert flag in text


@pytest.mark.parametrize("z_dim", ["2", "3"])
def test_a_short_run(z_dim: str, run: Run, tmp_path: Path) -> None:
    done = run("--z-dim", z_dim, "--tolerance", "30")
    assert done.status == 0, done.err
    assert "1097 training images, 2 epochs" in done.out
    assert "the first 20, importance sampling with k = 3" in done.out
    assert "tolerance 30 and 2 draws of zeta" in done.out
    drawn(done, tmp_path, PICTURES)
    model = Model.load(tmp_path / "vhp.safetensors")
    assert isinstance(model, VHP)
    assert model.sample(1)["z"].shape == (1, int(z_dim))
    if z_dim == "3":
        trained_nothing(run("--z-dim", z_dim, "--tolerance", "30", "--resume"), done)


def test_the_networks_start_alike_and_have_the_same_sizes(run: Run, tmp_path: Path) -> None:
    assert run().status == 0
    vae, vhp = (Model.load(tmp_path / f"{name}.safetensors") for name in ("vae", "vhp"))
    for part in ("encoder", "decoder"):
        sizes = [[p.shape for p in getattr(model, part).parameters()] for model in (vae, vhp)]
        assert sizes[0] == sizes[1]


WRONG = {
    "unknown data": (("--data", "cifar"), "digits"),
    "no tolerance": (("--tolerance", "nan"), "tolerance should be a finite number, was nan"),
    "no draws": (("--k-prior", "0"), "k should be a whole number of at least 1, was 0"),
    "no rate": (("--rate", "0"), "rate should be a positive number, was 0.0"),
    "no beta": (("--beta", "-1"), "start should be a positive number, was -1.0"),
    "no latents": (("--zeta-dim", "0"), "of at least 1, was 0"),
    "no neighbours": (("--neighbours", "0"), "n_neighbours should be a whole number of at least 1"),
    "few nodes": (("--nodes", "5"), "n_neighbours should be below the number of nodes, 5, was 18"),
    "too many images": (("--test-images", "501"), "test_images should be at most 500, was 501"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags_get_one_message(name: str, run: Run) -> None:
    flags, message = WRONG[name]
    refused(run(*flags), message)
