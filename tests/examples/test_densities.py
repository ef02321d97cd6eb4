"""The examples that compare densities as a user runs them; what they share by number.

What they share is examples/density.py.
"""

import csv
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from example_support import Done, Run, drawn, help_of, refused, trained_nothing

from ppl_vae.data import digits
from ppl_vae.models import DLGM, SBN, VAE, HierarchicalVAE, LadderVAE, Model
from ppl_vae.shared.checks import to_mean
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.training.history import History

Contents = Callable[[str], dict[str, Any]]
SCRIPTS = ("dlgm", "hierarchical_vae", "iwae", "ladder", "sbn")
QUICK = ("--epochs", "2", "--k", "3", "--test-images", "20")
SIZES = {
    "dlgm": ("--z-dims", "3", "--hidden", "8"),
    "hierarchical_vae": ("--z-dims", "3", "2", "--hidden", "8", "6"),
    "iwae": ("--z-dim", "3", "--hidden", "8"),
    "ladder": ("--z-dims", "4", "3", "2", "--hidden", "8", "6", "5", "--warmup", "2"),
    "sbn": ("--z-dims", "3", "2"),
}


@pytest.fixture
def run(run_example: Run) -> Run:
    """Runs the script of that name with short flags before these."""

    def go(script: str, *flags: str) -> Done:
        return run_example(f"{script}.py", *QUICK, *SIZES[script], *flags)

    return go


MNIST = {
    "dlgm": ("50", "500 500", "diagonal rank_one"),
    "hierarchical_vae": ("350", "100 50", "1-layer 2-layer 2-layer-skip"),
    "iwae": ("60", "200 200", "ELBO-1 IWAE-5", "train+validation"),
    "ladder": ("100", "64 32 16 8 4", "VAE LVAE+BN+WU"),
    "sbn": ("20", "200 200 200", "VIMCO-5", "0.003"),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_in_a_fresh_process(script: str) -> None:
    text = " ".join(help_of(f"{script}.py", "--data", "mnist").replace("│", " ").split())
    for default in ("mnist", "1000", *MNIST[script]):
        assert f"(default: {default})" in text


MODELS = {
    "dlgm": {"diagonal": DLGM, "rank_one": DLGM},
    "hierarchical_vae": {
        "1-layer": VAE,
        "2-layer": HierarchicalVAE,
        "2-layer-skip": HierarchicalVAE,
    },
    "iwae": {"ELBO-1": VAE, "IWAE-5": VAE, "DReG-5": VAE},
    "ladder": {
        "VAE, 3 layers": HierarchicalVAE,
        "VAE+BN+WU, 3 layers": HierarchicalVAE,
        "LVAE+BN+WU, 3 layers": LadderVAE,
    },
    "sbn": {"REINFORCE-5": SBN, "NVIL-5": SBN, "VIMCO-5": SBN, "RWS-5": SBN},
}
PICTURES = {"dlgm": "imputation", "ladder": "layers"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_short_run(script: str, run: Run, tmp_path: Path) -> None:
    done = run(script)
    assert done.status == 0, done.err
    assert "digits (dynamic), 1097 training images, 2 epochs, batches of 100" in done.out
    assert "the first 20, importance sampling with k = 3" in done.out
    assert (tmp_path / "table.txt").read_text() in done.out
    drawn(done, tmp_path, {"curves.png", "samples.png", f"{PICTURES.get(script, 'curves')}.png"})
    for name, kind in MODELS[script].items():
        assert f"\n{name:22} " in done.out
        assert f"{name}: epoch 2/2" in done.err
        path = tmp_path / f"{name.replace(', ', '_').replace(' ', '_')}.safetensors"
        assert str(path) in done.out
        assert type(Model.load(path)) is kind
    assert len(list(tmp_path.glob("*.safetensors"))) == len(MODELS[script])
    trained_nothing(run(script, "--resume"), done)


@pytest.mark.parametrize("script", SCRIPTS)
def test_pixels_cut_at_one_half(script: str, run: Run) -> None:
    done = run(script, "--binarisation", "threshold", "--epochs", "1")
    assert done.status == 0, done.err
    assert "digits (threshold), 1097 training images" in done.out


@pytest.mark.parametrize("binarisation", ["dynamic", "threshold"])
def test_the_output_starts_at_the_mean_of_the_data(
    binarisation: Any, contents_of: Contents, tmp_path: Path
) -> None:
    density = contents_of("density.py")
    settings = density["DensitySettings"](
        binarisation=binarisation, epochs=1, lr=1e-12, lr_end=1e-12, k=2, out=tmp_path
    )
    images = density["load"](settings)
    result = density["train"]("model", lambda: VAE(64, 2, (4,)), images, settings)
    pixels = digits().train.x if binarisation == "dynamic" else digits().train.x > 0.5
    start = np.clip(np.mean(pixels, 0), 0.001, 0.999)
    output = torch.sigmoid(result.model.decoder.logits.bias)
    np.testing.assert_allclose(output.detach().numpy(), start, rtol=1e-3)


def test_training_on_the_validation_images_too(run: Run, contents_of: Contents) -> None:
    assert "1297 training images" not in run("sbn", "--epochs", "1").out
    assert (
        "1297 training images" in run("sbn", "--epochs", "1", "--train-on", "train+validation").out
    )
    density = contents_of("density.py")
    for binarisation in ("dynamic", "threshold"):
        settings = {"binarisation": binarisation, "train_on": "train+validation"}
        joined = density["load"](density["DensitySettings"](**settings))
        parts = digits(binarisation)
        assert len(joined.train) == len(parts.train) + len(parts.validation)
        np.testing.assert_array_equal(to_mean(joined.train.x[1097:]), to_mean(parts.validation.x))
        np.testing.assert_array_equal(joined.train.y[:1097], parts.train.y)
        assert len(joined.validation) == len(parts.validation)


def test_step_size_by_hand(contents_of: Contents) -> None:
    density = contents_of("density.py")
    falling = density["step_size"](density["DensitySettings"](lr=0.4, lr_end=0.1), 3)
    assert [falling(epoch) for epoch in (1, 2, 3)] == pytest.approx([0.4, 0.2, 0.1])
    assert density["step_size"](density["DensitySettings"](lr=0.4, lr_end=0.4), 3) == 0.4


def test_table_by_hand(contents_of: Contents) -> None:
    """log p(x) of two images: 1, 3 and 2, 6; the differences are 1 and 3."""
    density = contents_of("density.py")
    history = History(None, [{"seconds": 2.0}, {"seconds": 3.0}], None)
    results = {
        name: density["Result"](history, -7.0, Estimate(np.array(values), np.zeros(2)))
        for name, values in {"one": [1.0, 3.0], "two": [2.0, 6.0]}.items()
    }
    lines = density["table"](density["DensitySettings"](), digits(), results).splitlines()
    assert lines[-2].split() == ["one", "-7.00", "2.00", "±", "1.00", "-", "5"]
    expected = ["two", "-7.00", "4.00", "±", "2.00", "2.00", "±", "1.00", "5"]
    assert lines[-1].split() == expected


def test_dlgm_of_one_covariance_and_two_layers(run: Run, tmp_path: Path) -> None:
    flags = ("--covariances", "rank_one", "--z-dims", "3", "2", "--no-batch-norm")
    done = run("dlgm", *flags)
    assert done.status == 0, done.err
    assert "diagonal" not in done.out
    model = DLGM.load(tmp_path / "rank_one.safetensors")
    latents = model.sample(1)
    assert [latents[f"xi_{layer}"].shape[1] for layer in (1, 2)] == [3, 2]
    assert not normalises(model)


@pytest.mark.parametrize("flag", ["--batch-norm", "--no-batch-norm"])
def test_batch_norm_of_dlgm(flag: str, run: Run, tmp_path: Path) -> None:
    assert run("dlgm", "--covariances", "diagonal", flag, "--epochs", "1").status == 0
    model = DLGM.load(tmp_path / "diagonal.safetensors")
    assert normalises(model) == (flag == "--batch-norm")


@pytest.mark.parametrize("missing", [0.0, 0.6, 1.0])
def test_imputation_leaves_what_is_observed(missing: float, contents_of: Contents) -> None:
    script = contents_of("dlgm.py")
    settings = script["Settings"](missing=missing, test_images=10)
    figure, (line,) = script["imputed"](DLGM(64, (3,), ((8,),)), digits("dynamic").test, settings)
    sheet = np.asarray(figure.axes[0].images[0].get_array()).reshape(7, 9, 10, 9)
    x, gap, *states = sheet[:, :8, :, :8].swapaxes(1, 2).reshape(7, 10, 64)
    plt.close("all")
    hidden = gap == 0.5
    assert np.mean(hidden) == pytest.approx(missing, abs=0.05)
    np.testing.assert_array_equal(gap[~hidden], x[~hidden])
    for step, state in zip((0, 1, 5, 20, 100), states, strict=True):
        np.testing.assert_array_equal(state[~hidden], x[~hidden])
        assert set(np.unique(state)) == {0.0, 1.0}
        wrong = np.mean(state[hidden] != x[hidden]) if missing else 0.0
        assert f"{step} steps {wrong:.1%}".replace("%", " %") in line
    assert line.startswith(f"{missing:.0%} of the pixels missing")


def test_the_kinds_of_hierarchical_vae(contents_of: Contents) -> None:
    script = contents_of("hierarchical_vae.py")
    settings = script["Settings"](z_dims=(5, 3), hidden=(8, 6))
    one, two, skip = (
        script["maker"](kind, 64, settings)() for kind in typing.get_args(script["Kind"])
    )
    assert sizes(one.encoder.trunk) == sizes(two.encoders[0].trunk) == [(8, 64), (8, 8)]
    assert sizes(one.decoder.trunk) == [(8, 3), (8, 8)]
    assert sizes(two.decoder.trunk) == [(8, 5), (8, 8)]
    assert sizes(two.encoders[1].trunk) == [(6, 5), (6, 6)]
    assert sizes(two.conditionals[0].trunk) == sizes(skip.conditionals[0].trunk) == [(6, 3), (6, 6)]
    assert sizes(skip.decoder.trunk) == [(8, 8), (8, 8)]  # the first reads z_1 and z_2
    assert (two.skip, skip.skip) == (False, True)


def test_the_kinds_of_ladder(contents_of: Contents) -> None:
    script = contents_of("ladder.py")
    settings = script["Settings"](z_dims=(4, 3, 2), hidden=(8, 6, 5))
    kinds = typing.get_args(script["Kind"])
    assert len(set(kinds)) == 8
    for kind in kinds:
        for layers in (1, 2, 3):
            model = script["maker"](kind, layers, 64, settings)
            assert type(model) is (LadderVAE if kind.startswith("LVAE") else HierarchicalVAE)
            assert normalises(model) == ("BN" in kind)
            latents = model.sample(1)
            assert [latents[f"z_{i + 1}"].shape[1] for i in range(layers)] == [4, 3, 2][:layers]
            assert sizes(model.encoders[-1].trunk)[-1] == ([8, 6, 5][layers - 1],) * 2


def test_a_row_for_each_model_of_each_depth(run: Run) -> None:
    done = run("ladder", "--models", "VAE", "LVAE+BN", "--layers", "1", "3", "--epochs", "1")
    assert done.status == 0, done.err
    rows = done.out[done.out.index("in use: more than 0.5") :].split("\n\n")[0].splitlines()[1:]
    names = ["VAE, 1 layer", "LVAE+BN, 1 layer", "VAE, 3 layers", "LVAE+BN, 3 layers"]
    for name, n_terms, row in zip(names, (1, 1, 3, 3), rows, strict=True):
        assert row.startswith(f"{name:22}")
        assert len(row[22:].split(": ")[0].split(", ")) == n_terms


def test_layers_in_use_by_hand(contents_of: Contents) -> None:
    layers = {
        name: Estimate(np.array([mean - 0.25, mean + 0.25]), np.full(2, np.nan))
        for name, mean in (("z_1", 7.0), ("z_2", 0.51), ("z_3", 0.5))
    }
    lines = contents_of("ladder.py")["active"]({"VAE": layers})
    values = "7.00 ± 0.25, 0.51 ± 0.25, 0.50 ± 0.25"
    assert lines.splitlines()[1] == f"{'VAE':22}{values}: 2 in use"


def test_warm_up_weighs_the_kl_terms(run: Run, tmp_path: Path) -> None:
    """Of networks that stand still: the loss is R + KL, and R + KL / n in epoch 1 of n of them."""
    losses = {}
    for epochs in ("2", "4"):
        still = ("--epochs", "1", "--lr", "1e-12", "--lr-end", "1e-12", "--warmup", epochs)
        assert run("ladder", "--models", "LVAE", "LVAE+WU", *still).status == 0
        for name in ("LVAE", "LVAE+WU"):
            with (tmp_path / f"{name}_3_layers/metrics.csv").open(newline="") as file:
                losses[name, epochs] = float(next(csv.DictReader(file))["loss"])
    assert losses["LVAE", "2"] == losses["LVAE", "4"]
    less = [losses["LVAE", n] - losses["LVAE+WU", n] for n in ("2", "4")]
    assert less[0] > 0.1
    assert less[1] / less[0] == pytest.approx((3 / 4) / (1 / 2), rel=1e-3)


WRONG = {
    "all": {
        "--data cifar": "cifar",
        "--binarisation none": "none",
        "--k 0": "k should be a whole number of at least 1, was 0",
        "--epochs 0": "epochs should be a whole number of at least 1, was 0",
        "--test-images 1": "test_images should be a whole number of at least 2, was 1",
        "--test-images 100000": "test_images should be at most 500, was 100000",
        "--lr 0": "lr should be a positive number, was 0.0",
        "--lr-end nan": "lr_end should be a finite number, was nan",
        "--batch-size 0": "batch_size should be a whole number of at least 1, was 0",
    },
    "dlgm": {
        "--missing 2": "missing should be a number in [0, 1], was 2.0",
        "--missing nan": "missing should be a finite number, was nan",
        "--covariances full": "full",
        "--covariances": "covariances should be at least one, was none",
        "--z-dims": "z_dims should hold the size of at least one layer, was ()",
        "--activation step": "step",
    },
    "hierarchical_vae": {
        "--models 3-layer": "3-layer",
        "--models": "models should be at least one, was none",
        "--z-dims 3": "z-dims",
        "--hidden 0 6": "hidden should be a whole number of at least 1, was 0",
    },
    "iwae": {
        "--objectives": "objectives should be at least one, was none",
        "--objectives ELBO-1 IWAE": "and a number, as in ELBO-5, was 'IWAE'",
        "--objectives GAN-5": "objectives should be ELBO, IWAE, STL, DReG and a number",
        "--objectives IWAE-0": "k should be a whole number of at least 1, was 0",
        "--z-dim 0": "z_dim should be a whole number of at least 1, was 0",
    },
    "ladder": {
        "--layers 0": "layers should be 1 to 3, as many as --z-dims and --hidden have sizes, was 0",
        "--layers 2 6": "have sizes, was 6",
        "--layers": "layers should be at least one, was none",
        "--models GAN": "GAN",
        "--models": "models should be at least one, was none",
        "--warmup 0": "warmup should be a whole number of at least 1, was 0",
    },
    "sbn": {
        "--estimators": "estimators should be at least one, was none",
        "--estimators ELBO-5": "RWS and a number, as in REINFORCE-5, was 'ELBO-5'",
        "--estimators VIMCO-1": "k should be a whole number of at least 2, was 1",
        "--z-dims": "z_dims should hold the size of at least one layer, was ()",
        "--train-on test": "test",
    },
}
CASES = [(s, flags) for s in SCRIPTS for flags in (*WRONG["all"], *WRONG[s])]


@pytest.mark.parametrize(("script", "flags"), CASES)
def test_wrong_flags_get_one_message(script: str, flags: str, run: Run, tmp_path: Path) -> None:
    done = run(script, *flags.split())
    message = {**WRONG["all"], **WRONG[script]}[flags]
    refused(done, message)
    if "should be" in message:
        assert done.err.startswith(f"{script}.py: error: ")
        assert done.err.count("\n") == 1
    assert done.out == ""
    assert not list(tmp_path.glob("*/checkpoint*"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_cuda_device(script: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(run(script, "--device", "cuda"), "device should be one that torch sees, was 'cuda'")


def normalises(model: Model) -> bool:
    """Whether the model has running statistics."""
    return any("running" in name for name in model.state_dict())


def sizes(trunk: torch.nn.Module) -> list[tuple[int, ...]]:
    """Shapes of the weights of the linear layers, (outputs, inputs)."""
    layers = [layer for layer in trunk.modules() if isinstance(layer, torch.nn.Linear)]
    return [tuple(layer.weight.shape) for layer in layers]
