"""Bad input of `fit`: the data, and its other arguments."""

from typing import Any

import numpy as np
from bad_calls import NAN, X_SEMI, Y_SEMI, Call, Row, X, Y, loss, train
from cases import Part

from ppl_vae.data import NormalFeatures
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.history import History
from ppl_vae.shared.training.optimizers import Adam


def semi(y: Any, x: Any = X_SEMI) -> Call:
    return train("m2-semi-supervised", (x, y), Part("SemiSupervised"))


def conditional(*data: Any) -> Call:
    """A call of `fit` of a model of two pixels given a condition of three classes or numbers."""
    return train("cvae-baseline", data)


def put(y: np.ndarray, index: int, value: int) -> np.ndarray:
    changed = y.copy()
    changed[index] = value
    return changed


class Unused(Schedule):
    """A step size that nothing asks for: no epoch is begun."""

    def __call__(self, epoch: Any) -> Any:
        raise AssertionError("training was begun")


DATA: dict[str, Row] = {
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
    "x-drawn": (
        train("vae", NormalFeatures(X, X)),
        r"x should lie in \[0, 1\], was NormalFeatures, .* drawn from \(-inf, inf\)",
    ),
    "x-list": (
        train("vae", X.tolist()),
        r"data should be arrays of shape \(n, \.\.\.\), held list",
    ),
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
        train("m2-unlabelled", X, Part("SemiSupervised")),
        "data should be .* labels y, had 1 array",
    ),
    "y-semi-floating": (semi(Y_SEMI / 1.0), "y.* should be .*integer.*was float64"),
    "y-semi-one-hot": (semi(np.eye(3)[Y]), r"y.* should have shape \(n,\), had \(24, 3\)"),
    "c-width": (conditional(X, X), r"c should have shape \(n, 3\), had \(24, 6\)"),
    "c-class": (conditional(Y + 1, X), "c should be classes 0 to 2, held 1 to 3"),
    "c-missing": (conditional(X), r"data should be \(c, x\) or \(c, x, mask\), had 1 array"),
    "c-x-width": (conditional(Y, X[:, 1:]), r"x should have shape \(n, 6\), had \(24, 5\)"),
    "mask-width": (conditional(Y, X, X[:, 1:] > 0.5), r"mask .*\(n, 6\), had \(24, 5\)"),
    "mask-numbers": (conditional(Y, X, X), "mask should be of a boolean type, was float32"),
    "semi-of-vae": (
        train("vae", (X, Y_SEMI), Part("SemiSupervised")),
        "model should .*n_classes.*VAE",
    ),
    "validation-width": (
        train("vae", X, validation=X[:, :5], lr=Unused()),
        r"validation should be data .*, but x should have shape \(n, 6\), had \(24, 5\)",
    ),
    "validation-nan": (
        train("vae", X, validation=NAN, lr=Unused()),
        "validation should be data .*, but x should be finite",
    ),
    "validation-number": (
        train("vae", X, validation=3, lr=Unused()),
        "validation should be data .*, but data should be arrays .*held int",
    ),
}

FIT: dict[str, Row] = {
    "epochs-0": (train("vae", X, epochs=0), "epochs should be .* at least 1, was 0"),
    "epochs-half": (train("vae", X, epochs=1.5), "epochs should be a whole number.*was 1.5"),
    "epochs-true": (train("vae", X, epochs=True), "epochs should be a whole number.*was True"),
    "epochs-text": (train("vae", X, epochs="3"), "epochs should be a whole number.*was '3'"),
    "batch_size-0": (train("vae", X, batch_size=0), "batch_size should be .*at least 1, was 0"),
    "batch_size-half": (train("vae", X, batch_size=2.5), "batch_size .*whole number.*was 2.5"),
    "lr-0": (train("vae", X, lr=0.0), "lr should be a positive number, was 0.0"),
    "lr-negative": (train("vae", X, lr=-1e-3), "lr should be a positive number, was -0.001"),
    "lr-nan": (train("vae", X, lr=float("nan")), "lr should be a positive number, was nan"),
    "lr-text": (train("vae", X, lr="0.1"), "lr should be a positive number, was '0.1'"),
    "optimizer-name": (train("vae", X, optimizer="adam"), r"optimizer .*Adam\(\).*was 'adam'"),
    "optimizer-class": (train("vae", X, optimizer=Adam), "optimizer should .*was the class Adam"),
    "clip_norm-0": (train("vae", X, clip_norm=0.0), "clip_norm .*positive number, was 0.0"),
    "clip_norm-nan": (train("vae", X, clip_norm=float("nan")), "clip_norm .*positive.*was nan"),
    "clip_norm-text": (train("vae", X, clip_norm="1"), "clip_norm .*positive number, was '1'"),
    "on_nan": (train("vae", X, on_nan="ignore"), "on_nan .*stop or skip or restore, was 'ignore'"),
    "on_nan-none": (train("vae", X, on_nan=None), "on_nan .*stop or skip or restore, was None"),
    "seed-text": (train("vae", X, seed="a"), "seed should be a whole number.*was 'a'"),
    "seed-negative": (train("vae", X, seed=-1), "seed should be a whole number.*was -1"),
    "seed-large": (train("vae", X, seed=2**32), r"seed should be below 2\*\*32, was 4294967296"),
    "device-nonsense": (train("vae", X, device="abacus"), "device should be auto.*was 'abacus'"),
    "device-none": (train("vae", X, device=None), "device should be auto.*was None"),
    "objective-name": (train("vae", X, "ELBO"), "objective should be .*was str"),
    "objective-class": (
        lambda backend: train("vae", X, backend.inference.ELBO)(backend),
        "objective should be .*was .*ELBO",
    ),
    "resume-without-out": (train("vae", X, resume=True), "out should be the folder .*was None"),
    "model-name": (loss("fit", "vae", X, epochs=1), "model should be a ppl_vae.* Model, was str"),
    "model-class": (
        lambda backend: backend.inference.fit(backend.models.VAE, X, epochs=1),
        r"model should be a ppl_vae.* Model, was the class ppl_vae\..*\.VAE",
    ),
    "model-history": (
        loss("fit", History(None, [], None), X, epochs=1),
        r"model should be a ppl_vae.* Model, was ppl_vae\.shared\.training\.history\.History",
    ),
    "model-semi": (
        loss("fit", "m2", (X, Y_SEMI), Part("SemiSupervised"), epochs=1),
        "objective should be .*was Part",
    ),
}
