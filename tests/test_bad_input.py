"""One table of what users hand in by mistake: the error names the argument, and what it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import CASE, equal, make, weights

from ppl_vae import ELBO, M2, VAE, Classifier, Model, SemiSupervised, fit
from ppl_vae.models import MLP, BernoulliNet, DiagNormalNet, StandardNormal

(X,) = CASE["vae"].data(0)
X_SEMI, Y_SEMI = CASE["m2-semi-supervised"].data(0)
Y = CASE["classifier"].data(0)[1]
NAN = np.where(np.arange(6) == 2, np.nan, X).astype(np.float32)


def train(case: str, data: Any, objective: Any = None, **settings: Any) -> Callable[[], Any]:
    """A call of `fit` that must fail before it has changed the model."""

    def call() -> None:
        model = make(CASE[case])
        before = weights(model)
        settings.setdefault("epochs", 1)
        try:
            fit(model, data, objective, progress=False, **settings)
        finally:
            assert equal(weights(model), before)

    return call


def semi(y: Any, x: Any = X_SEMI, **settings: Any) -> Callable[[], Any]:
    return train("m2-semi-supervised", (x, y), SemiSupervised(), **settings)


def put(y: np.ndarray, index: int, value: int) -> np.ndarray:
    changed = y.copy()
    changed[index] = value
    return changed


DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "x-width": (train("vae", X[:, :5]), r"x should have shape \(n, 6\), had \(24, 5\)"),
    "x-dimensions": (train("vae", X.reshape(24, 2, 3)), r"x .*\(n, 6\), had \(24, 2, 3\)"),
    "x-vector": (train("vae", X[0]), r"x should have shape \(n, 6\), had \(6,\)"),
    "x-uint8": (train("vae", (255 * X).astype(np.uint8)), "x should be .*floating.*was uint8"),
    "x-bool": (train("vae", X > 0.5), "x should be .*floating.*was bool"),
    "x-text": (train("vae", X.astype(str)), "x should be .*floating.*was <U"),
    "x-complex": (train("vae", X + 1j), "x should be .*floating.*was complex"),
    "x-above-1": (train("vae", 255 * X), r"x should lie in \[0, 1\], lay in \[0, 255\]"),
    "x-below-0": (train("vae", X - 0.5), r"x should lie in \[0, 1\], lay in \[-0.5, 0.5\]"),
    "x-nan": (train("vae", NAN), "x should be finite, held NaN"),
    "x-infinite": (train("vae-gaussian", np.where(X > 0, np.inf, X)), "x should be finite"),
    "x-nan-labelled": (train("classifier", (NAN, Y)), "x should be finite, held NaN"),
    "x-nan-semi": (semi(Y_SEMI, NAN), "x should be finite, held NaN"),
    "x-list": (
        train("vae", X.tolist()),
        r"data should be arrays of shape \(n, \.\.\.\), held list",
    ),
    "x-tensor-int": (train("vae", torch.as_tensor(X).int()), "x .*floating.*was int32"),
    "x-none": (train("vae", None), "data should be arrays of shape .*held NoneType"),
    "x-empty": (train("vae", X[:0]), "data should hold at least one datum, was empty"),
    "no-data": (train("vae", ()), "data should be at least one array, was empty"),
    "too-many": (train("vae", (X, Y)), r"data should be \(x\), had 2 arrays"),
    "too-many-m2": (train("m2-unlabelled", (X, Y, Y)), r"data should be \(x\) or \(x, y\), had 3"),
    "lengths": (train("classifier", (X, Y[:5])), r"data .*one length, had the lengths \[24, 5\]"),
    "lengths-semi": (semi(Y_SEMI[:5]), r"data .*one length, had the lengths \[24, 5\]"),
    "y-above": (train("classifier", (X, put(Y, 3, 3))), "y should be classes 0 to 2, held 0 to 3"),
    "y-unlabelled": (train("m2-labelled", (X, Y_SEMI)), "y should be classes 0 to 2, held -1"),
    "y-floating": (train("classifier", (X, Y / 1.0)), "y should be .*integer.*was float64"),
    "y-one-hot": (train("classifier", (X, np.eye(3)[Y])), r"y .*\(n,\), had \(24, 3\)"),
    "y-missing": (train("classifier", X), "site 'y' should be given as data"),
    "y-below-1": (
        semi(put(Y_SEMI, 0, -2)),
        r"y should be classes 0 to 2 or -1 \(unl.*\), held -2 to 2",
    ),
    "y-too-large": (semi(put(Y_SEMI, 0, 7)), r"y should be classes 0 to 2 .*, held -1 to 7"),
    "y-class-missing": (semi(np.where(Y_SEMI == 1, -1, Y_SEMI)), r"y .*every class, .*\[1\]"),
    "y-none-known": (semi(np.full(24, -1)), r"y .*every class, had none of \[0, 1, 2\]"),
    "y-semi-missing": (
        train("m2-unlabelled", X, SemiSupervised()),
        "data should be .* labels y, had 1 array",
    ),
    "y-semi-floating": (semi(Y_SEMI / 1.0), "y.* should be .*integer.*was float64"),
    "y-semi-one-hot": (semi(np.eye(3)[Y]), r"y.* should have shape \(n,\), had \(24, 3\)"),
    "semi-of-vae": (train("vae", (X, Y_SEMI), SemiSupervised()), "model should .*n_classes.*VAE"),
    "validation-width": (train("vae", X, validation=X[:, :5]), r"x .*\(n, 6\), had \(24, 5\)"),
    "validation-nan": (train("vae", X, validation=NAN), "x should be finite"),
}

SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "epochs-0": (train("vae", X, epochs=0), "epochs should be .* at least 1, was 0"),
    "epochs-half": (train("vae", X, epochs=1.5), "epochs should be a whole number.*was 1.5"),
    "epochs-text": (train("vae", X, epochs="3"), "epochs should be a whole number.*was '3'"),
    "batch_size-0": (train("vae", X, batch_size=0), "batch_size should be .*at least 1, was 0"),
    "batch_size-half": (train("vae", X, batch_size=2.5), "batch_size .*whole number.*was 2.5"),
    "lr-0": (train("vae", X, lr=0.0), "lr should be a positive number, was 0.0"),
    "lr-negative": (train("vae", X, lr=-1e-3), "lr should be a positive number, was -0.001"),
    "lr-nan": (train("vae", X, lr=float("nan")), "lr should be a positive number, was nan"),
    "lr-text": (train("vae", X, lr="0.1"), "lr should be a positive number, was '0.1'"),
    "seed-text": (train("vae", X, seed="a"), "seed should be a whole number.*was 'a'"),
    "seed-negative": (train("vae", X, seed=-1), "seed should be a whole number.*was -1"),
    "device-nonsense": (train("vae", X, device="gpu"), "device .*auto, cpu or cuda, was 'gpu'"),
    "device-none": (train("vae", X, device=None), "device .*auto, cpu or cuda, was None"),
    "objective-name": (train("vae", X, "ELBO"), "objective should be .*was str"),
    "objective-class": (train("vae", X, ELBO), "objective should be .*was .*ELBO"),
    "resume-without-out": (train("vae", X, resume=True), "out should be the folder .*was None"),
    "k-0": (lambda: ELBO(k=0), "k should be .*at least 1, was 0"),
    "k-half": (lambda: ELBO(k=2.5), "k should be a whole number.*was 2.5"),
    "nesting-0": (lambda: ELBO(max_plate_nesting=0), "max_plate_nesting .*at least 1, was 0"),
    "alpha-negative": (lambda: SemiSupervised(-1.0), "alpha should be at least 0, was -1.0"),
    "alpha-nan": (lambda: SemiSupervised(float("nan")), "alpha should be at least 0, was nan"),
    "alpha-infinite": (lambda: SemiSupervised(float("inf")), "alpha should be finite, was inf"),
    "beta-infinite": (lambda: ELBO(beta=float("inf")), "beta should be finite, was inf"),
    "free-bits-infinite": (lambda: ELBO(free_bits=float("inf")), "free_bits should be finite"),
    "alpha-text": (lambda: SemiSupervised("1"), "alpha should be at least 0, was '1'"),
    "fraction": (
        lambda: SemiSupervised(labelled_fraction=2),
        r"labelled_fraction .*\[0, 1\], was 2",
    ),
    "per-batch-0": (lambda: SemiSupervised(labelled_per_batch=0), "labelled_per_batch .*1, was 0"),
}

MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "activation": (lambda: MLP(3, (4,), "cubic"), "activation should be one of .*was 'cubic'"),
    "hidden-0": (lambda: VAE(6, 2, (4, 0)), "hidden should be .*at least 1, was 0"),
    "hidden-number": (lambda: VAE(6, 2, 4), "hidden should be .*sizes.*was 4"),
    "hidden-half": (lambda: VAE(6, 2, (2.5,)), "hidden should be a whole number.*was 2.5"),
    "hidden-empty-m2": (lambda: M2(6, 3, 2, ()), "hidden should name a layer to join 2 inputs"),
    "x_dim-0": (lambda: VAE(0, 2, (4,)), "dims? should be .*at least 1, was 0"),
    "z_dim-0": (lambda: VAE(6, 0, (4,)), "z_dim should be .*at least 1, was 0"),
    "out_dim-0": (lambda: DiagNormalNet(6, 0, (4,)), "out_dim should be .*at least 1, was 0"),
    "out_dim-0-bernoulli": (lambda: BernoulliNet(6, 0, (4,)), "out_dim should .*1, was 0"),
    "z_dim-negative": (lambda: StandardNormal(-3), "z_dim should be .*at least 1, was -3"),
    "n_classes-1": (lambda: M2(6, 1, 2, (4,)), "n_classes should be .*at least 2, was 1"),
    "n_classes-1-classifier": (lambda: Classifier(6, 1, (4,)), "n_classes .*at least 2, was 1"),
    "sample-0": (lambda: make(CASE["vae"]).sample(0), "n should be .*at least 1, was 0"),
    "sample-half": (lambda: make(CASE["vae"]).sample(2.5), "n should be a whole number.*was 2.5"),
    "reconstruct": (
        lambda: make(CASE["vae"]).reconstruct(X[:, 1:]),
        r"x .*\(n, 6\), had \(24, 5\)",
    ),
    "reconstruct-site": (lambda: make(CASE["vae"]).reconstruct(X, site="w"), "site .*'w'"),
    "predict": (
        lambda: make(CASE["m2-labelled"]).predict(X[:, 1:]),
        r"x .*\(n, 6\), had \(24, 5\)",
    ),
}

ROWS = {**DATA, **SETTINGS, **MODELS}


@pytest.mark.parametrize("name", ROWS)
def test_one_value_error_that_names_the_argument(name: str) -> None:
    call, words = ROWS[name]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_cuda_where_there_is_none(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device should be .*was .*cuda.*no CUDA device"):
        train("vae", X, device=device)()


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
