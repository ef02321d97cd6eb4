"""The VHP example as a user runs it: a short run, what it draws, wrong flags."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from ppl_vae.models import VHP, Model

SCRIPT = Path(__file__).parent.parent / "examples/vhp.py"
SHORT = ("--epochs", "2", "--hidden", "8", "--z-dim", "3", "--zeta-dim", "2", "--k", "3")
FEW = ("--test-images", "20", "--nodes", "60", "--k-prior", "2")
PICTURES = ("curves.png", "latents.png", "interpolations.png")


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
        command = [str(SCRIPT), *SHORT, *FEW, "--out", str(tmp_path), *flags]
        monkeypatch.setattr(sys, "argv", command)
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
    assert "5000" in done.stdout  # draws per image, because of --data mnist
    for flag in ("--tolerance", "--k-prior", "--zeta-dim", "--neighbours", "--device", "--resume"):
        assert flag in done.stdout


@pytest.mark.parametrize("z_dim", ["2", "3"])
def test_a_short_run(z_dim: str, run: Run, tmp_path: Path) -> None:
    done = run("--z-dim", z_dim, "--tolerance", "30")
    assert done.status == 0, done.err
    assert "1097 training images, 2 epochs" in done.out
    assert "the first 20, importance sampling with k = 3" in done.out
    assert "tolerance 30 and 2 draws of zeta" in done.out
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in done.out
    model = Model.load(tmp_path / "vhp.safetensors")
    assert isinstance(model, VHP)
    assert model.sample(1)["z"].shape == (1, int(z_dim))
    if z_dim == "3":
        again = run("--z-dim", z_dim, "--tolerance", "30", "--resume")
        assert again.out == done.out  # the times too: nothing was trained again
        assert "epoch" not in again.err


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
    done = run(*flags)
    assert done.status == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
