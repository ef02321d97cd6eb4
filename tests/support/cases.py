"""The table of cases: every model and objective, small, as data that names no backend.

`case.make(ppl_vae.models)` and `case.make(ppl_vae.numpyro.models, key=key)` build the same model.
A new model or objective needs one line in `CASES`, and the generic tests walk over it: what depends
on the model alone over `PAIRS`, what depends on the objective alone over `OBJECTIVES`, and the few
that are about both over all cases.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

N, X_DIM, Z_DIM, N_CLASSES = 24, 6, 2, 3
Data = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Part:
    """A class of a room by its name, and its arguments, other parts among them."""

    cls: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self, room: ModuleType, **extra: Any) -> Any:
        """An instance, whose parts are made with the same `extra` arguments (a random key)."""
        values = {
            key: value.make(room, **extra) if isinstance(value, Part) else value
            for key, value in self.arguments.items()
        }
        return getattr(room, self.cls)(**values, **extra)


@dataclass(frozen=True)
class Case:
    """A model, what it is trained on, and by what.

    Attributes:
        name: What the test is called.
        model: The model.
        data: Example data by their seed: the arguments of `model.model`, or of the objective.
        objective: The objective.
        unused: Start of the names of parameters that this objective cannot train.
    """

    name: str
    model: Part
    data: Callable[[int], Data]
    objective: Part = field(default_factory=lambda: Part("ELBO"))
    unused: str | None = None

    def inputs(self, seed: int) -> Data:
        """The arguments of `model.model`, without labels that are hidden in part."""
        data = self.data(seed)
        return data[:-1] if self.objective.cls == "SemiSupervised" else data


def _pixels(seed: int) -> np.ndarray:
    """Two kinds of image and noise, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    probs = np.where(rng.random((N, 1)) < 0.5, 0.9, 0.1) * np.ones(X_DIM)
    return (rng.random((N, X_DIM)) < probs).astype(np.float32)


def _labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(N) % N_CLASSES)


def pixels(seed: int) -> Data:
    return (_pixels(seed),)


def reals(seed: int) -> Data:
    rng = np.random.default_rng(seed)
    return ((2.0 + 0.3 * rng.normal(size=(N, X_DIM))).astype(np.float32),)


def labelled(seed: int) -> Data:
    return _pixels(seed), _labels(seed)


def conditioned(seed: int) -> Data:
    x = _pixels(seed)
    return x[:, :2] + np.float32(0.5), x


def masked_by_class(seed: int) -> Data:
    mask = np.random.default_rng(seed).random((N, X_DIM)) < 0.7
    return _labels(seed), _pixels(seed), mask


def partly_labelled(seed: int) -> Data:
    y = _labels(seed)
    y[9:] = -1
    y[:N_CLASSES] = np.arange(N_CLASSES)
    return _pixels(seed), y


VAE = {"x_dim": X_DIM, "z_dim": Z_DIM, "hidden": (5, 4)}
M2 = {"x_dim": X_DIM, "n_classes": N_CLASSES, "z_dim": Z_DIM, "hidden": (5, 4)}
GAUSSIAN = Part("DiagNormalNet", {"in_dims": Z_DIM, "out_dim": X_DIM, "hidden": (5,)})
REAL_VAE = Part("VAE", {**VAE, "decoder": GAUSSIAN})
TANH = {"in_dims": X_DIM, "out_dim": Z_DIM, "hidden": (3,), "activation": "tanh"}
PARTS = {"prior": Part("StandardNormal", {"z_dim": Z_DIM}), "encoder": Part("DiagNormalNet", TANH)}
HIERARCHICAL = {"x_dim": X_DIM, "z_dims": (3, Z_DIM), "hidden": ((5, 4), (4,))}
SKIP = {**HIERARCHICAL, "z_dims": (3, Z_DIM, 1), "hidden": ((5,), (4,), (3,)), "skip": True}
ALL_Z = Part("DiagNormalNet", {"in_dims": (3, Z_DIM, 1), "out_dim": X_DIM, "hidden": (5,)})
PLAIN = {"batch_norm": False}
LADDER = {**HIERARCHICAL, "z_dims": (3, Z_DIM, 1), "hidden": ((5, 4), (4,), (3,))}
ON_Z_1 = Part("DiagNormalNet", {"in_dims": 3, "out_dim": X_DIM, "hidden": (5,)})
DLGM = {"x_dim": X_DIM, "z_dims": (Z_DIM,), "hidden": ((5, 4),), "activation": "tanh"}
DLGM_2 = {**DLGM, "z_dims": (Z_DIM, 3), "hidden": ((5,), (4,)), "covariance": "rank_one"}
VHP = {"x_dim": X_DIM, "z_dim": Z_DIM, "zeta_dim": 3, "hidden": (5, 4), "activation": "tanh"}
CVAE = {"x_dim": X_DIM, "c_dim": 2, "z_dim": Z_DIM, "hidden": (5, 4)}
BASELINE = {"x_dim": X_DIM, "hidden": (5, 4)}
SBN = {"x_dim": X_DIM, "z_dims": (6, Z_DIM)}
CATEGORIES = {"x_dim": X_DIM, "z_dims": (3, Z_DIM), "hidden": ((5,), (4,)), "n_categories": 3}
GUESS = Part("BernoulliNet", {"in_dims": N_CLASSES, "out_dim": X_DIM, "hidden": (3,)})
STACKED = {"z_dims": (4, Z_DIM), "hidden": ((5,), (4,))}
M1M2 = {"x_dim": X_DIM, "n_classes": N_CLASSES, **STACKED}
CLASSIFIER = {"x_dim": X_DIM, "n_classes": N_CLASSES, "hidden": (5,)}

CASES = (
    Case("vae", Part("VAE", VAE), pixels),
    Case("vae-gaussian", REAL_VAE, reals, Part("ELBO", {"k": 2})),
    Case("iwae", REAL_VAE, reals, Part("IWAE", {"k": 3})),
    Case("miwae", REAL_VAE, reals, Part("MIWAE", {"m": 2, "k": 3})),
    Case("ciwae", REAL_VAE, reals, Part("CIWAE", {"beta": 0.5, "k": 3})),
    Case("renyi", REAL_VAE, reals, Part("Renyi", {"alpha": 0.5, "k": 3})),
    Case("cubo", REAL_VAE, reals, Part("CUBO", {"n": 1.5, "k": 20}), unused="decoder."),
    Case("stl", REAL_VAE, reals, Part("STL", {"k": 2})),
    Case("dreg", REAL_VAE, reals, Part("DReG", {"k": 3})),
    Case("vae-parts", Part("VAE", {**VAE, **PARTS}), pixels, Part("ELBO", {"analytic_kl": True})),
    Case("hierarchical", Part("HierarchicalVAE", HIERARCHICAL), pixels),
    Case(
        "hierarchical-skip",
        Part("HierarchicalVAE", {**SKIP, "decoder": ALL_Z}),
        reals,
        Part("ELBO", {"k": 2}),
    ),
    Case(
        "hierarchical-norm",
        Part("HierarchicalVAE", {**HIERARCHICAL, "batch_norm": True}),
        pixels,
        Part("ELBO", {"k": 2}),
    ),
    Case("piwae", Part("HierarchicalVAE", HIERARCHICAL), pixels, Part("PIWAE", {"m": 2, "k": 3})),
    Case("ladder", Part("LadderVAE", {**LADDER, **PLAIN}), pixels),
    Case("ladder-beta", Part("LadderVAE", LADDER), pixels, Part("ELBO", {"k": 2, "beta": 0.5})),
    Case(
        "ladder-gaussian",
        Part("LadderVAE", {**LADDER, **PLAIN, "activation": "tanh", "decoder": ON_Z_1}),
        reals,
        Part("ELBO", {"k": 2, "analytic_kl": True}),
    ),
    Case("dlgm-diagonal", Part("DLGM", {**DLGM, "covariance": "diagonal"}), pixels),
    Case("dlgm-norm", Part("DLGM", {**DLGM_2, "batch_norm": True}), pixels),
    Case("dlgm-rank-one", Part("DLGM", {**DLGM_2, "decoder": GAUSSIAN}), reals),
    Case("baseline", Part("Baseline", {**BASELINE, "c_dim": 2}), conditioned),
    Case("baseline-masked", Part("Baseline", {**BASELINE, "c_dim": N_CLASSES}), masked_by_class),
    Case("vhp", Part("VHP", VHP), pixels),
    Case("vhp-geco", Part("VHP", VHP), pixels, Part("GECO", {"tolerance": 3.0, "k": 2})),
    Case("sbn", Part("SBN", SBN), pixels, Part("ELBO", {"k": 10})),
    Case("sbn-categorical", Part("SBN", CATEGORIES), pixels, Part("ELBO", {"k": 10})),
    Case("vimco", Part("SBN", SBN), pixels, Part("VIMCO", {"k": 5})),
    Case("rws", Part("SBN", SBN), pixels, Part("RWS", {"k": 5, "sleep_phi": True})),
    Case("relaxed", Part("SBN", CATEGORIES), pixels, Part("Relaxed", {"temperature": 0.7, "k": 2})),
    Case("tvo", Part("SBN", CATEGORIES), pixels, Part("TVO", {"k": 10, "partitions": 3})),
    Case(
        "conditional-sbn",
        Part("ConditionalSBN", {**SBN, "c_dim": N_CLASSES, "z_dims": (4, Z_DIM)}),
        masked_by_class,
        Part("ELBO", {"k": 5}),
    ),
    Case("gsnn", Part("GSNN", CVAE), conditioned),
    Case("cvae", Part("CVAE", CVAE), conditioned, Part("ELBO", {"k": 2})),
    Case(
        "cvae-baseline",
        Part("CVAE", {**CVAE, "c_dim": N_CLASSES, "baseline": GUESS, "decoder_sees_c": False}),
        masked_by_class,
    ),
    Case("wake-sleep", Part("CVAE", CVAE), conditioned, Part("WakeSleep")),
    Case("cvae-hybrid", Part("CVAE", CVAE), conditioned, Part("Hybrid", {"alpha": 0.3, "k": 2})),
    Case("m2-unlabelled", Part("M2", M2), pixels),
    Case("m2-labelled", Part("M2", M2), labelled, unused="classifier."),
    Case(
        "m2-semi-supervised",
        Part("M2", M2),
        partly_labelled,
        Part("SemiSupervised", {"alpha": 0.5, "labelled_per_batch": 4}),
    ),
    Case("m1", Part("M1", VAE), pixels),
    Case("m1-m2-labelled", Part("M1M2", M1M2), labelled, unused="classifier."),
    Case(
        "m1-m2-semi-supervised",
        Part("M1M2", M1M2),
        partly_labelled,
        Part("SemiSupervised", {"alpha": 0.5, "labelled_per_batch": 4, "k": 2}),
    ),
    Case("classifier", Part("Classifier", CLASSIFIER), labelled),
)
PAIRS = tuple({(repr(case.model), case.data): case for case in CASES[::-1]}.values())[::-1]
"""Each model once, with each kind of data: for what does not depend on the objective."""
OBJECTIVES = tuple({case.objective.cls: case for case in CASES[::-1]}.values())[::-1]
"""Each class of objective once: for what does not depend on the model."""
