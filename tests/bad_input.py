"""The table of what users hand in by mistake, as calls of a backend that they do not name.

`test_bad_input.py` makes each call in Pyro and `test_numpyro_bad_input.py` in the port: it raises
one error, which names the argument, what it should be and what it was.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
from cases import CASES, Part, labelled, partly_labelled, pixels

from ppl_vae.data import NormalFeatures
from ppl_vae.runs.history import History
from ppl_vae.settings.optimizers import Adam

CASE = {case.name: case for case in CASES}
(X,) = pixels(0)
X_SEMI, Y_SEMI = partly_labelled(0)
Y = labelled(0)[1]
NAN = np.where(np.arange(6) == 2, np.nan, X).astype(np.float32)


class Backend(Protocol):
    """What the table asks of a backend."""

    name: str
    models: ModuleType
    inference: ModuleType

    def new(self, cls: str, *arguments: Any, **more: Any) -> Any:
        """A network or a model of that class."""

    def make(self, case: str) -> Any:
        """The model of a case."""

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """A copy of its weights."""

    def drawn(self, method: str, case: str, *arguments: Any, **more: Any) -> Any:
        """What a method of a case's model gives, with a random key where it needs one."""


Call: TypeAlias = Callable[[Backend], Any]
Row: TypeAlias = tuple[Call, str]


def train(case: str, data: Any, objective: Any = None, **settings: Any) -> Call:
    """A call of `fit` that must fail before it has changed the model."""

    def call(backend: Backend) -> None:
        model = backend.make(case)
        before = backend.weights(model)
        loss = objective.make(backend.inference) if isinstance(objective, Part) else objective
        given = {"epochs": 1, "progress": False, **settings}
        try:
            backend.inference.fit(model, data, loss, **given)
        finally:
            after = backend.weights(model)
            assert all(np.array_equal(after[name], before[name]) for name in before)

    return call


def semi(y: Any, x: Any = X_SEMI) -> Call:
    return train("m2-semi-supervised", (x, y), Part("SemiSupervised"))


def new(cls: str, *arguments: Any, **more: Any) -> Call:
    return lambda backend: backend.new(cls, *arguments, **more)


def conditional(*data: Any) -> Call:
    """A call of `fit` of a model of two pixels given a condition of three classes or numbers."""
    return train("cvae-baseline", data)


def loss(cls: str, *arguments: Any, **more: Any) -> Call:
    """An objective, or another thing of the room of inference, with these arguments."""
    return lambda backend: getattr(backend.inference, cls)(*arguments, **more)


def put(y: np.ndarray, index: int, value: int) -> np.ndarray:
    changed = y.copy()
    changed[index] = value
    return changed


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
    "validation-width": (train("vae", X, validation=X[:, :5]), r"x .*\(n, 6\), had \(24, 5\)"),
    "validation-nan": (train("vae", X, validation=NAN), "x should be finite"),
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
        r"model should be a ppl_vae.* Model, was ppl_vae\.runs\.history\.History",
    ),
    "model-semi": (
        loss("fit", "m2", (X, Y_SEMI), Part("SemiSupervised"), epochs=1),
        "objective should be .*was Part",
    ),
}

OBJECTIVES: dict[str, Row] = {
    "k-0": (loss("ELBO", k=0), "k should be .*at least 1, was 0"),
    "k-true": (loss("ELBO", k=True), "k should be a whole number.*was True"),
    "k-half": (loss("ELBO", k=2.5), "k should be a whole number.*was 2.5"),
    "nesting-0": (loss("ELBO", max_plate_nesting=0), "max_plate_nesting .*at least 1, was 0"),
    "beta-negative": (loss("ELBO", beta=-1.0), "beta should be at least 0, was -1.0"),
    "beta-infinite": (loss("ELBO", beta=float("inf")), "beta should be finite, was inf"),
    "free-bits-infinite": (loss("ELBO", free_bits=float("inf")), "free_bits should be finite"),
    "free-bits-negative": (loss("FreeBits", -1.0), "nats should be at least 0, was -1.0"),
    "free-bits-per": (loss("FreeBits", 1.0, "dim"), "per should be site or unit, was 'dim'"),
    "baseline": (loss("ELBO", baseline="mean"), "baseline should be .*was 'mean'"),
    "alpha-negative": (loss("SemiSupervised", -1.0), "alpha should be at least 0, was -1.0"),
    "alpha-nan": (loss("SemiSupervised", float("nan")), "alpha should be at least 0, was nan"),
    "alpha-infinite": (loss("SemiSupervised", float("inf")), "alpha should be finite, was inf"),
    "alpha-text": (loss("SemiSupervised", "1"), "alpha should be at least 0, was '1'"),
    "fraction": (
        loss("SemiSupervised", labelled_fraction=2),
        r"labelled_fraction .*\[0, 1\], was 2",
    ),
    "fraction-text": (
        loss("SemiSupervised", labelled_fraction="all"),
        r"labelled_fraction .*\[0, 1\], was 'all'",
    ),
    "labelled-first": (
        loss("SemiSupervised", labelled_first=-1),
        "labelled_first should be a whole number of at least 0, was -1",
    ),
    "per-batch-0": (
        loss("SemiSupervised", labelled_per_batch=0),
        "labelled_per_batch .*1, was 0",
    ),
    "miwae-m": (loss("MIWAE", 0, 3), "m should be a whole number of at least 1, was 0"),
    "piwae-m": (loss("PIWAE", 1.5, 3), "m should be a whole number of at least 1, was 1.5"),
    "ciwae-beta": (loss("CIWAE", 2.0, 3), r"beta should be a number in \[0, 1\], was 2.0"),
    "renyi-1": (loss("Renyi", 1.0, 3), "alpha should not be 1.*use ELBO"),
    "renyi-text": (loss("Renyi", "a", 3), "alpha should be a number or -inf, was 'a'"),
    "cubo-1": (loss("CUBO", 1.0, 3), "n should be a number above 1, was 1.0"),
    "vimco-1": (loss("VIMCO", 1), "k should be a whole number of at least 2, was 1"),
    "vimco-mean": (loss("VIMCO", 3, "harmonic"), ".*should be .*was 'harmonic'"),
    "tvo-bound": (loss("TVO", 3, 2, "middle"), "bound should be .*was 'middle'"),
    "tvo-k": (loss("TVO", 1, 2), "k should be a whole number of at least 2, was 1"),
    "tvo-partitions": (loss("TVO", 3, 0), "partitions should be a whole .*1, was 0"),
    "tvo-points": (loss("TVO", 3, (0.0, 0.5)), r"partitions should be .*was \(0.0, 0.5\)"),
    "rws-phase": (loss("RWS", 3, wake_phi="yes"), "wake_phi should be True or False, was 'yes'"),
    "rws-no-phase": (
        loss("RWS", 3, wake_phi=False),
        "wake_phi or sleep_phi should be True .*, was neither",
    ),
    "rws-1": (loss("RWS", 1), "k should be at least 2 with wake_phi, was 1.*use WakeSleep"),
    "relaxed-hard": (loss("Relaxed", 0.5, hard="yes"), "hard should be True or False, was 'yes'"),
    "temperature": (loss("Relaxed", 0.0), "temperature should be a positive number, was 0.0"),
    "tolerance": (loss("GECO", float("inf")), "tolerance should be a finite number, was inf"),
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
    "geco-rate": (loss("GECO", 1.0, rate=0.0), "rate should be a positive number, was 0.0"),
    "geco-decay": (loss("GECO", 1.0, decay=1.5), r"decay .*\[0, 1\], was 1.5"),
    "geco-update": (loss("GECO", 1.0, update="adam"), "update should be one of .*was 'adam'"),
    "geco-inner": (loss("GECO", 1.0, inner="zeta"), "inner should be .*names.*was 'zeta'"),
    "hybrid-alpha": (loss("Hybrid", 1.5), r"alpha should be a number in \[0, 1\], was 1.5"),
    "lagging": (loss("Lagging", "ELBO"), "objective should be .*was str"),
    "lagging-itself": (
        lambda b: b.inference.Lagging(b.inference.SemiSupervised()),
        r"objective should be .*such as ELBO\(\), was SemiSupervised",
    ),
    "lagging-window": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), window=0),
        "window should be a whole number of at least 1, was 0",
    ),
    "lagging-most": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), most=9, window=10),
        "most should be at least 2 window = 20.*was 9",
    ),
    "lagging-patience": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), patience=0),
        "patience should be a whole number of at least 1, was 0",
    ),
    "lagging-subset": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), subset=1),
        "subset should be a whole number of at least 2, was 1",
    ),
    "adam-betas": (loss("Adam", 0.9), r"betas should be two numbers in \[0, 1\), was 0.9"),
    "adam-betas-1": (loss("Adam", (0.9, 1.0)), r"betas .*\[0, 1\), was \(0.9, 1.0\)"),
    "adam-eps": (loss("Adam", eps=0.0), "eps should be a positive number, was 0.0"),
    "adam-decay": (loss("AdamW", weight_decay=-1.0), "weight_decay .*at least 0, was -1.0"),
    "sgd-momentum": (loss("SGD", 1.0), r"momentum should be .*\[0, 1\), was 1.0"),
    "sgd-nesterov": (loss("SGD", 0.9, "yes"), "nesterov should be True or False, was 'yes'"),
    "sgd-nesterov-alone": (loss("SGD", 0.0, True), "momentum should be above 0 .*, was 0"),
    "sgd-decay": (loss("SGD", weight_decay=-1.0), "weight_decay .*at least 0, was -1.0"),
    "lr-start": (loss("ExponentialDecay", 0.0, 1.0, 9), "start should be a positive.*was 0.0"),
    "lr-epochs": (loss("ExponentialDecay", 1.0, 0.1, 1), "epochs .*at least 2, was 1"),
    "lr-schedule": (loss("ExponentialDecay", 1.0, 0.0, 9), "end should be a positive.*was 0.0"),
    "warmup-start": (loss("Warmup", 9, 2.0), r"start should be .*\[0, 1\], was 2.0"),
    "warmup": (loss("Warmup", 0), "epochs should be a whole number of at least 1, was 0"),
}

MODELS: dict[str, Row] = {
    "activation": (new("MLP", 3, (4,), "cubic"), "activation should be one of .*was 'cubic'"),
    "hidden-0": (new("VAE", 6, 2, (4, 0)), "each of hidden should be .*at least 1, was 0"),
    "hidden-number": (new("VAE", 6, 2, 4), "hidden should be .*sizes.*was 4"),
    "hidden-half": (new("VAE", 6, 2, (2.5,)), "each of hidden should be a whole number.*was 2.5"),
    "hidden-number-vhp": (new("VHP", 6, 2, 2, 4), "hidden should be .*sizes.*was 4"),
    "hidden-empty-m2": (new("M2", 6, 3, 2, ()), "hidden should name a layer to join 2 inputs"),
    "activation-list": (new("MLP", 3, (4,), ["tanh"]), r"activation .*one of .*was \['tanh'\]"),
    "dropout-number": (
        new("MLP", 3, (4,), dropout=0.5),
        r"dropout should be two rates in \[0, 1\), was 0.5",
    ),
    "dropout-1": (new("MLP", 3, (4,), dropout=(0.0, 1.0)), r"dropout .*was \(0.0, 1.0\)"),
    "in_dims-half": (new("MLP", 2.5, (4,)), "in_dims should be a whole number.*was 2.5"),
    "in_dims-0": (new("MLP", (3, 0), (4,)), "in_dims should be a whole number.*was 0"),
    "zeta_dim-0": (new("VHP", 6, 2, 0, (4,)), "zeta_dim should be .*at least 1, was 0"),
    "c_dim-0": (new("CVAE", 6, 0, 2, (4,)), "c_dim should be .*at least 1, was 0"),
    "n_categories-1": (
        new("SBN", 6, (3,), (), "tanh", 1),
        "n_categories should be a whole number of at least 2, was 1",
    ),
    "n_categories-1-prior": (new("FactorisedCategorical", 3, 1), "n_categories .*2, was 1"),
    "n_categories-1-net": (new("FactorisedCategoricalNet", 3, 2, 1, (4,)), "n_categ.*2, was 1"),
    "z_dim-0-bernoulli": (new("FactorisedBernoulli", 0), "z_dim should be .*1, was 0"),
    "z_dim-0-categorical": (new("FactorisedCategorical", 0, 3), "z_dim should be .*1, was 0"),
    "out_dim-0-categorical": (
        new("FactorisedCategoricalNet", 3, 0, 3, (4,)),
        "out_dim should be a whole number of at least 1, was 0",
    ),
    "out_dim-0-rank-one": (new("RankOneNormalNet", 6, 0, (4,)), "out_dim .*at least 1, was 0"),
    "z_dims-m1-m2": (
        new("M1M2", 6, 3, (2,), ((4,),)),
        r"z_dims should be the sizes of z_1 and z_2, was \(2,\)",
    ),
    "z_dims-half": (
        new("HierarchicalVAE", 6, (3, 2.5), ((4,), (4,))),
        "each of z_dims should be a whole number of at least 1, was 2.5",
    ),
    "hidden-flat": (
        new("LadderVAE", 6, (3, 2), (4, 4)),
        r"hidden should be a sequence of sizes for each layer, was \(4, 4\)",
    ),
    "encoders": (
        new("DLGM", 6, (2,), ((4,),), encoders=()),
        "encoders should be 1 networks, one per layer, had 0",
    ),
    "covariance-list": (new("DLGM", 6, (2,), ((4,),), ["full"]), r"covariance .*\['full'\]"),
    "start-at": (
        lambda b: b.make("vae").decoder.start_at(X[0, 1:]),
        r"mean should have shape \(6,\), had \(5,\)",
    ),
    "conditions": (
        lambda b: b.drawn("sample", "cvae-baseline", 3, Y),
        "c should be 3 conditions, one for each draw, had 24",
    ),
    "conditions-class": (
        lambda b: b.drawn("sample", "cvae-baseline", 24, Y + 1),
        "c should be classes 0 to 2, held 1 to 3",
    ),
    "conditions-n": (
        lambda b: b.drawn("sample", "cvae-baseline", 0, Y),
        "n should be a whole number of at least 1, was 0",
    ),
    "z_dim-0": (new("VAE", 6, 0, (4,)), "z_dim should be .*at least 1, was 0"),
    "out_dim-0": (new("DiagNormalNet", 6, 0, (4,)), "out_dim should be .*at least 1, was 0"),
    "out_dim-0-bernoulli": (new("BernoulliNet", 6, 0, (4,)), "out_dim should .*1, was 0"),
    "z_dim-negative": (new("StandardNormal", -3), "z_dim should be .*at least 1, was -3"),
    "n_classes-1": (new("M2", 6, 1, 2, (4,)), "n_classes should be .*at least 2, was 1"),
    "n_classes-1-prior": (new("UniformCategorical", 1), "n_classes should be .*at least 2, was 1"),
    "n_classes-1-classifier": (new("Classifier", 6, 1, (4,)), "n_classes .*at least 2, was 1"),
    "z_dims-number": (new("HierarchicalVAE", 6, 2, ((4,),)), "z_dims should be .*was 2"),
    "z_dims-empty": (new("LadderVAE", 6, (), ()), r"z_dims should hold .*was \(\)"),
    "hidden-layers": (new("LadderVAE", 6, (3, 2), ((4,),)), "hidden .* each of the 2.*had 1"),
    "covariance": (new("DLGM", 6, (2,), ((4,),), "full"), "covariance should .*'full'"),
    "sample-0": (lambda b: b.drawn("sample", "vae", 0), "n should be .*at least 1, was 0"),
    "sample-half": (lambda b: b.drawn("sample", "vae", 2.5), "n should be a whole.*was 2.5"),
    "reconstruct": (
        lambda b: b.drawn("reconstruct", "vae", X[:, 1:]),
        r"x .*\(n, 6\), had \(24, 5\)",
    ),
    "reconstruct-site": (
        lambda b: b.drawn("reconstruct", "vae", X, site="w"),
        "site should be .*was 'w'",
    ),
    "decode-nothing": (lambda b: b.make("vae").decode({}), "latents should hold .*was empty"),
    "predict": (lambda b: b.make("m2-labelled").predict(X[:, 1:]), r"x .*\(n, 6\), had \(24, 5\)"),
    "load-python": (
        lambda b: b.models.Model.load(__file__),
        r"path should be a whole file .*was .*\(it ends before its header does, after \d+ bytes\)",
    ),
}

AFTER_X_DIM: dict[str, tuple[Any, ...]] = {
    "VAE": (2, (4,)),
    "M1": (2, (4,)),
    "M2": (3, 2, (4,)),
    "M1M2": (3, (3, 2), ((4,), (4,))),
    "HierarchicalVAE": ((2,), ((4,),)),
    "LadderVAE": ((2,), ((4,),)),
    "DLGM": ((2,), ((4,),)),
    "VHP": (2, 2, (4,)),
    "SBN": ((2,),),
    "ConditionalSBN": (2, (2,)),
    "GSNN": (2, 2, (4,)),
    "CVAE": (2, 2, (4,)),
    "Baseline": (2, (4,)),
    "Classifier": (3, (4,)),
}
for _cls, _arguments in AFTER_X_DIM.items():
    for _dim in (0, 2.5, "6"):
        MODELS[f"x_dim-{_dim!r}-{_cls}"] = (
            new(_cls, _dim, *_arguments),
            f"x_dim should be a whole number of at least 1, was {_dim!r}",
        )

SMALL: dict[str, Any] = {"chains": 2, "temperatures": 3, "leapfrog_steps": 1, "adaptation": 2}
MEASURES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "mean_loss": lambda room, model, x: room.mean_loss(model, x),
    "kl_per_site": lambda room, model, x: room.kl_per_site(model, x),
    "log_likelihood": lambda room, model, x: room.log_likelihood(model, x, 5),
    "log_likelihood-ais": lambda room, model, x: room.log_likelihood(
        model, x, method="ais", **SMALL
    ),
    "bdmc": lambda room, model, x: room.bdmc(model, x, **SMALL),
    "gaps": lambda room, model, x: room.gaps(model, x, ("gaussian",), k=2),
    "active_units": lambda room, model, x: room.active_units(model, x),
    "posterior_collapse": lambda room, model, x: room.posterior_collapse(model, x),
    "elbo_surgery": lambda room, model, x: room.elbo_surgery(model, x),
    "calibration": lambda room, model, x: room.calibration(model, 100, data=x),
    "impute": lambda room, model, x: room.impute(model, x, X > 0.5),
    "gradient_stats": lambda room, model, x: room.gradient_stats(room.ELBO(), model, x, 2),
    "compare": lambda room, model, x: room.compare(
        model, [room.ELBO()], X, x, epochs=1, progress=False
    ),
}
NEED_ARVIZ: dict[str, Callable[[Any, Any, Any], Any]] = {
    "pareto_k": lambda room, model, x: room.pareto_k(model, x, 100),
    "to_arviz": lambda room, model, x: room.to_arviz(model, x, 4),
    "diagnose": lambda room, model, x: room.diagnose(model, x, 100, simulations=100),
}
WRONG: dict[str, tuple[Any, Any, str]] = {
    "no-model": ("vae", X, "model should be a ppl_vae.* Model, was str"),
    "nan": (None, NAN, "x should be finite, held NaN"),
    "empty": (None, X[:0], "data should hold at least one datum, was empty"),
    "list": (None, X.tolist(), r"data should be arrays of shape \(n, \.\.\.\), held list"),
    "width": (None, X[:, 1:], r"x should have shape \(n, 6\), had \(24, 5\)"),
}


def measured(name: str, model: Any, data: Any) -> Call:
    """A call of a measurement, by default of the VAE of the table."""
    measure = {**MEASURES, **NEED_ARVIZ}[name]
    return lambda backend: measure(backend.inference, model or backend.make("vae"), data)


def of_vae(name: str, *arguments: Any, **settings: Any) -> Call:
    """A call of a measurement of the VAE with these arguments after its data."""
    return lambda backend: getattr(backend.inference, name)(
        backend.make("vae"), X, *arguments, **settings
    )


def stats(backend: Backend, *objective: Any, **more: Any) -> Any:
    given = objective or (backend.inference.ELBO(),)
    return backend.inference.gradient_stats(*given, backend.make("vae"), X, **more)


def compared(objectives: Any, **settings: Any) -> Call:
    return lambda backend: backend.inference.compare(
        backend.make("vae"), objectives, X, X, **{"epochs": 1, "progress": False, **settings}
    )


OF_EACH: dict[str, Row] = {
    f"{name}-{wrong}": (measured(name, model, data), says)
    for name in (*MEASURES, *NEED_ARVIZ)
    for wrong, (model, data, says) in WRONG.items()
    if not (name == "bdmc" and wrong == "nan")  # of these data only the shapes matter
}
MEASURED: dict[str, Row] = {
    "likelihood-k": (of_vae("log_likelihood", 0), "k should be .*at least 1, was 0"),
    "likelihood-method": (
        of_vae("log_likelihood", method="is"),
        "method .*iw or ais, was 'is'",
    ),
    "likelihood-seed": (of_vae("log_likelihood", seed="a"), "seed should be a whole.*was 'a'"),
    "likelihood-nesting": (
        of_vae("log_likelihood", max_plate_nesting=0),
        "max_plate_nesting should be .*at least 1, was 0",
    ),
    "likelihood-particles": (of_vae("log_likelihood", particles=0), "particles .*1, was 0"),
    "likelihood-chains": (
        of_vae("log_likelihood", method="ais", chains=1.5),
        "chains should be a whole number .*was 1.5",
    ),
    "mean_loss-objective": (of_vae("mean_loss", "ELBO"), "objective should be .*was str"),
    "mean_loss-seed": (of_vae("mean_loss", seed=-1), "seed should be a whole.*was -1"),
    "mean_loss-batch": (of_vae("mean_loss", batch_size=0), "batch_size .*at least 1, was 0"),
    "kl-no-latents": (
        lambda b: b.inference.kl_per_site(b.make("classifier"), (X, Y)),
        "guide should draw a latent site, .*drew none",
    ),
    "kl-batch": (of_vae("kl_per_site", batch_size=0), "batch_size .*at least 1, was 0"),
    "bdmc-number": (
        lambda backend: backend.inference.bdmc(backend.make("vae"), 0),
        "data should be a whole number of at least 1, was 0",
    ),
    "bdmc-seed": (
        lambda backend: backend.inference.bdmc(backend.make("vae"), 2, seed=None),
        "seed should be a whole number.*was None",
    ),
    "bdmc-batch": (
        lambda backend: backend.inference.bdmc(backend.make("vae"), 2, batch_size=0),
        "batch_size should be a whole number of at least 1, was 0",
    ),
    "likelihood-adaptation": (
        of_vae("log_likelihood", method="ais", adaptation=1),
        "adaptation should be a whole number of at least 2, was 1",
    ),
    "gaps-k": (of_vae("gaps", ("gaussian",), k=1), "k should be .*at least 2, was 1"),
    "gaps-particles": (of_vae("gaps", particles=0), "particles should be .*at least 1, was 0"),
    "gaps-nesting": (of_vae("gaps", max_plate_nesting=0), "max_plate_nesting .*1, was 0"),
    "gaps-method": (of_vae("gaps", method="vi"), "method should be .* or .*, was 'vi'"),
    "gaps-family": (of_vae("gaps", ("iaf",)), "families should be .*was 'iaf'"),
    "gaps-families": (of_vae("gaps", 2), "families should be some of .*was 2"),
    "units-threshold": (of_vae("active_units", 0.0), "threshold .*positive number, was 0.0"),
    "units-k": (of_vae("active_units", k=1), "k should be .*at least 2, was 1"),
    "units-batch": (of_vae("active_units", batch_size=0), "batch_size .*at least 1, was 0"),
    "units-nesting": (of_vae("active_units", max_plate_nesting=0), "max_plate_n.*1, was 0"),
    "units-one-datum": (
        lambda b: b.inference.active_units(b.make("vae"), X[:1]),
        "data should hold at least 2 data for a variance, held 1",
    ),
    "collapse-epsilon": (
        of_vae("posterior_collapse", epsilon=0.0),
        "epsilon .*number, was 0.0",
    ),
    "collapse-delta": (of_vae("posterior_collapse", delta="a"), r"delta .*\[0, 1\), was 'a'"),
    "collapse-k": (of_vae("posterior_collapse", k=3), "k should be .*even.*was 3"),
    "surgery-k": (of_vae("elbo_surgery", k=0), "k should be .*at least 1, was 0"),
    "calibration-k": (
        lambda backend: backend.inference.calibration(backend.make("vae"), k=98),
        r"k \+ 1 should be a multiple of bins \(20\).*was 99",
    ),
    "calibration-bins": (
        lambda backend: backend.inference.calibration(backend.make("vae"), k=99, bins=1),
        "bins should be a whole number of at least 2, was 1",
    ),
    "calibration-n": (
        lambda backend: backend.inference.calibration(backend.make("vae"), 99, k=99),
        "n should be a whole number of at least 100, was 99",
    ),
    "calibration-seed": (
        lambda backend: backend.inference.calibration(backend.make("vae"), 100, seed=-1),
        "seed should be a whole number.*was -1",
    ),
    "diagnose-simulations": (
        of_vae("diagnose", 100, simulations=5),
        "simulations should be a whole number of at least 100, was 5",
    ),
    "impute-observed": (
        of_vae("impute", X),
        "observed should be of a boolean type, was float32",
    ),
    "diagnose-k": (of_vae("diagnose", 5), "k should be a whole number of at least .*, was 5"),
    "pareto_k-k": (of_vae("pareto_k", 5), "k should be a whole number of at least .*, was 5"),
    "to_arviz-k": (of_vae("to_arviz", 0), "k should be a whole number of at least .*, was 0"),
    "impute-rows": (of_vae("impute", X[1:] > 0.5), "observed .*24 rows, those of x, had 23"),
    "impute-observed-width": (
        of_vae("impute", X[:, 1:] > 0.5),
        r"observed .*\(n, 6\), had \(24, 5\)",
    ),
    "impute-steps": (of_vae("impute", X > 0.5, steps=0), "steps should be .*at least 1, was 0"),
    "impute-seed": (of_vae("impute", X > 0.5, seed="a"), "seed should be a whole.*was 'a'"),
    "stats-objective": (lambda b: stats(b, "ELBO"), "objective should be .*was str"),
    "stats-repeats": (lambda b: stats(b, repeats=1), "repeats should be .*at least 2, was 1"),
    "stats-truth": (lambda b: stats(b, truth=3), "truth should be .*was int"),
    "compare-name": (compared("ELBO"), "objectives should be .*was 'ELBO'"),
    "compare-names": (compared(["ELBO"]), "objectives should be .*objective, was str"),
    "compare-none": (compared({}), "objectives should be at least one, was none"),
    # Of two errors the one of `compare` comes first: it is found before anything is trained.
    "compare-test-nan": (
        lambda b: b.inference.compare(b.make("vae"), [b.inference.ELBO()], X, NAN, epochs=0),
        "x should be finite, held NaN",
    ),
    "compare-batch": (
        lambda backend: compared([backend.inference.ELBO()], batch_size=0, epochs=0)(backend),
        "batch_size should be .*at least 1, was 0",
    ),
    "compare-repeats": (
        lambda backend: compared([backend.inference.ELBO()], repeats=1, epochs=0)(backend),
        "repeats should be .*at least 2, was 1",
    ),
    "compare-k": (
        lambda backend: compared([backend.inference.ELBO()], k=0, epochs=0)(backend),
        "k should be .*at least 1, was 0",
    ),
}

ROWS: dict[str, Row] = {**DATA, **FIT, **OBJECTIVES, **MODELS, **OF_EACH, **MEASURED}
assert len(ROWS) == sum(map(len, (DATA, FIT, OBJECTIVES, MODELS, OF_EACH, MEASURED)))
EXTRAS = {"arviz": ("pareto_k", "to_arviz", "diagnose"), "pandas": ("stats", "gradient", "compare")}


def needs(name: str) -> list[str]:
    """The packages, not always installed, that a row needs."""
    return [package for package, starts in EXTRAS.items() if name.startswith(starts)]
