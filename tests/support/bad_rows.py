"""Bad input that is particular to one class or function, in both backends.

What a signature alone says is not here: `bad_values.py` derives it for every class and function,
`bad_data.py` for the data of every model, and the functions of `shared/checks.py` have their own
tests. A row is one call and the start of its message.
"""

from typing import Any

import numpy as np
from bad_calls import CASE, NAN, X_SEMI, Y_SEMI, Backend, Call, Row, X, Y, new, of_vae, train
from cases import Part

from ppl_vae.shared.training.optimizers import Adam

EXTRAS = {"to_arviz": "arviz", "diagnose": "arviz", "pareto_k": "arviz"}
EXTRAS |= {"gradient_stats": "pandas", "compare": "pandas"}
"""Packages, not always installed, by the function that needs them."""


def semi(y: Any, x: Any = X_SEMI) -> Call:
    return train("m2-semi-supervised", (x, y), Part("SemiSupervised"))


def changed(y: np.ndarray, value: int) -> np.ndarray:
    return np.concatenate([[value], y[1:]])


def lagging(**settings: Any) -> Call:
    return lambda b: b.call("Lagging", b.inference.ELBO(), **settings)


def method(name: str, case: str, *arguments: Any, **more: Any) -> Call:
    return lambda b: b.method(name, case, *arguments, **more)


def of_class(case: str, backend: Backend) -> Any:
    return getattr(backend.models, CASE[case].model.cls)


FIT: dict[str, Row] = {
    "y-missing": (train("classifier", X), "site 'y' should be given as data"),
    "c-missing": (
        train("cvae-baseline", X),
        r"data should be \(c, x\) or \(c, x, mask\), had 1 array",
    ),
    "semi-x-nan": (semi(Y_SEMI, NAN), "x should be finite, held NaN"),
    "semi-lengths": (semi(Y_SEMI[:5]), r"data .*one length, had the lengths \[24, 5\]"),
    "semi-y-below": (semi(changed(Y_SEMI, -2)), r"y should be classes 0 to 2 or -1 \(unl.*held -2"),
    "semi-y-above": (semi(changed(Y_SEMI, 7)), r"y should be classes 0 to 2 .*, held -1 to 7"),
    "semi-y-class": (semi(np.where(Y_SEMI == 1, -1, Y_SEMI)), r"y .*every class, .*\[1\]"),
    "semi-y-none": (semi(np.full(24, -1)), r"y .*every class, had none of \[0, 1, 2\]"),
    "semi-y-floating": (semi(Y_SEMI / 1.0), "y.* should be .*integer.*was float64"),
    "semi-y-one-hot": (semi(np.eye(3)[Y]), r"y.* should have shape \(n,\), had \(24, 3\)"),
    "semi-y-missing": (
        train("m2-unlabelled", X, Part("SemiSupervised")),
        "data should be .* labels y, had 1 array",
    ),
    "semi-of-vae": (
        train("vae", (X, Y_SEMI), Part("SemiSupervised")),
        "model should .*n_classes.*VAE",
    ),
    "optimizer-class": (train("vae", X, optimizer=Adam), "optimizer should .*was the class Adam"),
    "device-none": (train("vae", X, device=None), "device should be auto.*was None"),
    "resume-without-out": (train("vae", X, resume=True), "out should be the folder .*was None"),
    "model-class": (
        lambda b: b.inference.fit(of_class("vae", b), X, epochs=1),
        r"model should be a ppl_vae.* Model, was the class ppl_vae\..*\.VAE",
    ),
    "geco-no-latents": (
        train("classifier", (X, Y), Part("GECO", {"tolerance": 1.0})),
        "guide should draw a latent site, .*drew none",
    ),
    "beta-no-latents": (
        train("classifier", (X, Y), Part("ELBO", {"beta": 0.5})),
        "beta should be left out for a guide that draws no latent site",
    ),
    "free-bits-no-latents": (
        train("classifier", (X, Y), Part("ELBO", {"free_bits": 0.5})),
        "free_bits should be left out for a guide that draws no latent site",
    ),
}

OBJECTIVES: dict[str, Row] = {
    "tvo-points": (new("TVO", 3, (0.0, 0.5)), r"partitions should be .*was \(0.0, 0.5\)"),
    "rws-no-phase": (
        new("RWS", 3, wake_phi=False),
        "wake_phi or sleep_phi should be True .*, was neither",
    ),
    "rws-1": (new("RWS", 1), "k should be at least 2 with wake_phi, was 1.*use WakeSleep"),
    "tolerance": (new("GECO", float("inf")), "tolerance should be a finite number, was inf"),
    "labelled_fraction": (
        new("SemiSupervised", labelled_fraction=2),
        r"labelled_fraction .*\[0, 1\], was 2",
    ),
    "lagging-itself": (
        lambda b: b.call("Lagging", b.inference.SemiSupervised()),
        r"objective should be .*such as ELBO\(\), was SemiSupervised",
    ),
    "lagging-max-steps": (
        lagging(max_steps=9, window=10),
        "max_steps should be at least 2 window = 20.*was 9",
    ),
}

MODELS: dict[str, Row] = {
    "activation-list": (new("MLP", 3, (4,), ["tanh"]), r"activation .*one of .*was \['tanh'\]"),
    "hidden-empty-m2": (new("M2", 6, 3, 2, ()), "hidden should name a layer to join 2 inputs"),
    "in_dims-second": (new("MLP", (3, 0), (4,)), "in_dims should be a whole number.*was 0"),
    "z_dims-m1-m2": (
        new("M1M2", 6, 3, (2,), ((4,),)),
        r"z_dims should be the sizes of z_1 and z_2, was \(2,\)",
    ),
    "encoders-none": (
        new("DLGM", 6, (2,), ((4,),), encoders=()),
        "encoders should be 1 networks, one per layer, had 0",
    ),
    "covariance-list": (new("DLGM", 6, (2,), ((4,),), ["full"]), r"covariance .*\['full'\]"),
    "network-class": (
        lambda b: b.call("VAE", 6, 2, (4,), decoder=b.models.BernoulliNet),
        r"decoder should be a network \(\w+\), was <class .*BernoulliNet'>",
    ),
    "start-at": (
        lambda b: b.part(CASE["vae"].model).decoder.start_at(X[0, 1:]),
        r"mean should have shape \(6,\), had \(5,\)",
    ),
    "sample-0": (method("sample", "vae", 0), "n should be .*at least 1, was 0"),
    "reconstruct": (method("reconstruct", "vae", X[:, 1:]), r"x .*\(n, 6\), had \(24, 5\)"),
    "reconstruct-site": (
        method("reconstruct", "vae", X, site="w"),
        "site should be .*was 'w'",
    ),
    "conditions": (
        method("sample", "cvae-baseline", 3, Y),
        "c should be 3 conditions, one for each draw, had 24",
    ),
    "conditions-class": (
        method("sample", "cvae-baseline", 24, Y + 1),
        "c should be classes 0 to 2, held 1 to 3",
    ),
    "conditions-n": (
        method("sample", "cvae-baseline", 0, Y),
        "n should be a whole number of at least 1, was 0",
    ),
    "decode-nothing": (
        lambda b: b.part(CASE["vae"].model).decode({}),
        "latents should hold .*was empty",
    ),
    "predict": (
        lambda b: b.part(CASE["m2-labelled"].model).predict(X[:, 1:]),
        r"x .*\(n, 6\), had \(24, 5\)",
    ),
    "load-python": (
        lambda b: b.models.Model.load(__file__),
        r"path should be a whole file .*was .*\(it ends before its header does, after \d+ bytes\)",
    ),
}

MEASURES: dict[str, Row] = {
    "kl-no-latents": (
        lambda b: b.call("kl_per_site", b.part(CASE["classifier"].model), (X, Y)),
        "guide should draw a latent site, .*drew none",
    ),
    "log_likelihood-ais": (
        lambda b: b.call("log_likelihood", b.part(CASE["vae"].model), NAN, method="ais"),
        "x should be finite, held NaN",
    ),
    "gaps-family": (
        of_vae("gaps", ("iaf",)),
        "each of families should be gaussian or full or flow, was 'iaf'",
    ),
    "gaps-families": (of_vae("gaps", 2), "families should be some of .*was 2"),
    "gaps-foreign": (
        of_vae("gaps", adaptation=30),
        "adaptation .*left out with method='iw', .*was 30: it belongs to method='ais' or 'both'",
    ),
    "active_units-one-datum": (
        lambda b: b.call("active_units", b.part(CASE["vae"].model), X[:1]),
        "data should hold at least 2 data for a variance, held 1",
    ),
    "posterior_collapse-k": (of_vae("posterior_collapse", k=3), "k should be .*even.*was 3"),
    "calibration-k": (
        lambda b: b.call("calibration", b.part(CASE["vae"].model), k=98),
        r"k \+ 1 should be a multiple of bins \(20\).*was 99",
    ),
    "calibration-data": (
        lambda b: b.call("calibration", b.part(CASE["vae"].model), 100, data=X[:, 1:]),
        r"x should have shape \(n, 6\), had \(24, 5\)",
    ),
    "to_arviz-resample": (
        of_vae("to_arviz", 4, resample=True),
        "k should be a whole number of at least 100, was 4",
    ),
}
ROWS = {**FIT, **OBJECTIVES, **MODELS, **MEASURES}
SHARED: dict[str, Row] = {
    "adam-betas-1": (new("Adam", (0.9, 1.0)), r"betas .*\[0, 1\), was \(0.9, 1.0\)"),
    "sgd-momentum": (new("SGD", 1.0), r"momentum should be .*\[0, 1\), was 1.0"),
    "sgd-nesterov-alone": (new("SGD", 0.0, True), "momentum should be above 0 .*, was 0"),
}
"""Rows of classes that both backends share: tested once."""
