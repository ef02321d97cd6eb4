"""Bad input raises one error, which names the argument, what it should be and what it was.

The walks and rows that both backends share are in `tests/support/bad_*.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from bad_calls import CASE, Row, X, Y, of_vae, train
from bad_data import MODELS, assert_data_refused
from bad_rows import EXTRAS, ROWS, SHARED
from bad_values import assert_refused, public
from cases import Part
from example_support import EXAMPLES, Run, refused
from pyro.infer import Trace_ELBO
from support import equal, make, weights
from torch import nn

import ppl_vae.inference
import ppl_vae.models
from ppl_vae import Model, fit, plots
from ppl_vae.data import Dynamic, Images, NormalFeatures, digits, hide_labels, mnist
from ppl_vae.models import MLP
from ppl_vae.models.networks.layers import Network


class Pyro:
    """Pyro for the walks and rows."""

    models = ppl_vae.models
    inference = ppl_vae.inference

    def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        room = self.models if hasattr(self.models, name) else self.inference
        return getattr(room, name)(*arguments, **more)

    def part(self, part: Part) -> Any:
        return part.make(self.models)

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in weights(model).items()}

    def method(self, method: str, case: str, *arguments: Any, **more: Any) -> Any:
        return getattr(make(CASE[case]), method)(*arguments, **more)


@pytest.mark.parametrize("name", sorted(public(Pyro())))
def test_every_argument_of_every_signature(name: str) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    assert_refused(Pyro(), name)


def test_the_walk_leaves_out_bases_results_and_distributions() -> None:
    walked = public(Pyro())
    assert {*ppl_vae.models.__all__} - {*walked} == {
        *("ClassifierMixin", "ConditionalModel", "Model", "Network", "RankOneNormal")
    }
    assert {*ppl_vae.inference.__all__} - {*walked} == {
        *("BDMC", "Estimate", "Gaps", "History", "Objective", "Schedule")
    }


class Unchecked:
    def __init__(self, x_dim: int = 3) -> None: ...


def test_the_walk_finds_a_missing_check() -> None:
    backend = Pyro()
    backend.models = SimpleNamespace(__all__=["Unchecked"], Unchecked=Unchecked)  # type: ignore[assignment]
    with pytest.raises(AssertionError, match=r"Unchecked\.x_dim accepted 0"):
        assert_refused(backend, "Unchecked")


@pytest.mark.parametrize("case", MODELS)
def test_the_data_of_every_model(case: str) -> None:
    assert_data_refused(Pyro(), case)


OF_PYRO: dict[str, Row] = {
    "device-type": (train("vae", X, device=1.5), "device .*auto, cpu or cuda, was 1.5"),
    "objective-of-pyro": (
        of_vae("mean_loss", Trace_ELBO()),
        r"objective should be a ppl_vae objective, was pyro\..*\.Trace_ELBO",
    ),
}


@pytest.mark.parametrize("name", [*ROWS, *SHARED, *OF_PYRO])
def test_one_value_error_that_names_the_argument(name: str) -> None:
    for package in {package for start, package in EXTRAS.items() if name.startswith(start)}:
        pytest.importorskip(package)
    call, words = {**ROWS, **SHARED, **OF_PYRO}[name]
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        call(Pyro())
    assert "\n" not in str(caught.value)


class Callback(Protocol):
    """A type that cannot be checked at run time."""

    def __call__(self, x: Any) -> Any: ...


class Own(Network):
    """Arguments that the check of networks must not refuse."""

    def __init__(
        self,
        *parts: nn.Module,
        scale: nn.Module | float = 1.0,
        callback: Callback | None = None,
        stack: Sequence[nn.Module] | None = None,
        unset: nn.Module = None,  # type: ignore[assignment]
    ) -> None:
        super().__init__()


def test_a_class_of_your_own_may_have_other_arguments() -> None:
    part = MLP(3, (4,))
    Own(part, part, scale=2, callback=len, stack=nn.ModuleList([part]), unset=part)
    with pytest.raises(ValueError, match=r"unset should be a network \(Module\), was 'a'"):
        Own(unset="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stack .*sequence of networks .Module., was \[.*, 3\]"):
        Own(stack=[part, 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"stack .*sequence of networks .Module., was 5"):
        Own(stack=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unset should be a network \(Module\), was <class .*MLP"):
        Own(unset=MLP)  # type: ignore[arg-type]


IMAGES = Images(X, Y.astype(np.int64), (2, 3), 3, "toy", "none")
OF_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "grey levels": (lambda: Dynamic(2 * X), r"probs should be in \[0, 1\], was in \[0.0, 2.0\]"),
    "a draw": (lambda: Dynamic(X).sample(-1), "seed should be a whole.*at least 0, was -1"),
    "a normal draw": (lambda: NormalFeatures(X, X).sample(None), "seed should be .*was None"),
    "scales": (lambda: NormalFeatures(X, X - 2), r"scale should .*\[0, inf\], lay in \[-2, -1\]"),
    "active": (lambda: NormalFeatures(X, X).active(9.0), "threshold should be less .*was 9.0"),
    "split": (lambda: IMAGES.split(2, 0), r"n should be in 3..21.*was 2"),
    "split by a fraction": (lambda: IMAGES.split(2.5, 0), "n should be a whole.*was 2.5"),
    "split seed": (lambda: IMAGES.split(9, -1), "seed should be a whole.*at least 0, was -1"),
    "labels": (lambda: hide_labels(Y, 2, 0, 3), r"n_labels should be in 3..24.*was 2"),
    "labels by a fraction": (lambda: hide_labels(Y, 9.5, 0, 3), "n_labels .*whole.*was 9.5"),
    "labels of classes": (lambda: hide_labels(Y, 9, 0, 3.5), "n_classes .*whole.*was 3.5"),
    "labels seed": (lambda: hide_labels(Y, 9, "a", 3), "seed should be .*was 'a'"),
    "binarisation": (lambda: digits("grey"), "binarisation should be dynamic, .*was 'grey'"),
    "pictures": (
        lambda: plots.image_grid(X[None], (2, 2)),
        r"rows should have shape \(n_rows, n_columns, 4\), had \(1, 24, 6\)",
    ),
    "folder": (lambda: mnist(folder="/nowhere"), "folder should be an existing .*was /nowhere"),
}


@pytest.mark.parametrize("name", OF_DATA)
def test_data_that_are_made_of_bad_input(name: str) -> None:
    call, words = OF_DATA[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_the_largest_seed_has_another_one_after_it() -> None:
    found = ppl_vae.inference.calibration(make(CASE["vae"]), 100, k=99, seed=2**32 - 1)
    assert found.n == 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_cuda_where_there_is_none(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device should be .*was .*cuda.*no CUDA device"):
        train("vae", X, device=device)(Pyro())


def test_arguments_that_there_are_not() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required .* 'epochs'"):
        fit(make(CASE["vae"]), X)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        fit(make(CASE["vae"]), X, epochs=1, epoch=3)  # type: ignore[call-arg]


SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if "run(main, " in path.read_text())
FLAGS = {
    "unknown": ("--epoch-number 3", "epoch-number"),
    "no number": ("--epochs few", "invalid"),
    "out of range": ("--epochs 0", "epochs should be a whole number of at least 1, was 0"),
    "unknown data": ("--data cifar", "invalid choice 'cifar'"),
    "a file as a folder": (f"--out {__file__}/here", "Not a directory"),
}


def test_every_script_has_flags() -> None:
    assert len(SCRIPTS) == len([*EXAMPLES.glob("*.py")]) - 2  # without cli.py and density.py


@pytest.mark.parametrize("script", SCRIPTS)
def test_flags_of_every_script(script: str, run_example: Run, tmp_path: Path) -> None:
    for name, (flags, message) in FLAGS.items():
        done = run_example(script, *flags.split())
        refused(done, message)
        assert done.out == ""
        assert not [*tmp_path.iterdir()]  # nothing was trained before the flag was checked
        if "should" in message or "folder" in name:
            assert done.err.startswith(f"{script}: error: ")
            assert done.err.count("\n") == 1


def written(path: Path) -> bytes:
    make(CASE["vae"]).save(path)
    return path.read_bytes()


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "truncated-weights": lambda whole: whole[:-5],
    "truncated-header": lambda whole: whole[:20],
    "foreign": lambda whole: b"PK" + bytes(100),
    "text": lambda whole: b"a = 1\n" * 30,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_a_damaged_file_is_named(name: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    settings: dict[str, Any] = {"epochs": 1, "out": tmp_path, "progress": False}
    resumed = {**settings, "resume": True}
    if what == "model":
        written(path)
    else:
        fit(make(CASE["vae"]), X, **settings)
    path.write_bytes(FILES[name](path.read_bytes()))
    damaged, metrics = path.read_bytes(), tmp_path / "metrics.csv"
    rows = metrics.read_bytes() if metrics.exists() else None
    words = r"path should be a whole file written by ppl_vae, was '.*checkpoint\.safetensors'"
    with pytest.raises(ValueError, match=words):
        _ = Model.load(path) if what == "model" else fit(make(CASE["vae"]), X, **resumed)
    assert path.read_bytes() == damaged
    assert rows is None or metrics.read_bytes() == rows


def test_a_file_that_is_missing_or_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path should be a file, was '.*nothing'"):
        Model.load(tmp_path / "nothing")
    written(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="out should hold the checkpoint of a run"):
        fit(make(CASE["vae"]), X, epochs=1, out=tmp_path, resume=True, progress=False)
    fit(make(CASE["vae"]), X, epochs=1, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="description should have 'class' and 'arguments'"):
        Model.load(tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_of_another_model_are_named(change: str) -> None:
    model = make(CASE["vae"])
    before, state = weights(model), dict(make(CASE["vae"], seed=1).state_dict())
    bias = state.pop("decoder.logits.bias")
    if change == "unknown":
        state |= {"decoder.logits.bias": bias, "decoder.spare": bias}
    if change == "shape":
        state["decoder.logits.bias"] = bias[:2]
    name = r"decoder\.spare" if change == "unknown" else r"decoder\.logits\.bias"
    with pytest.raises(ValueError, match=rf"weights should be those of this VAE.*{name}"):
        model.with_weights(state)
    assert equal(weights(model), before)
