"""The table of what users hand in by mistake, as calls of a backend that they do not name.

`test_bad_input.py` makes each call in Pyro and `test_numpyro_bad_input.py` in the port: it raises
one error, which names the argument, what it should be and what it was.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
from cases import CASES, Part, labelled, partly_labelled, pixels

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

    def new(self, cls: str, *arguments: Any) -> Any:
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


def new(cls: str, *arguments: Any) -> Call:
    return lambda backend: backend.new(cls, *arguments)


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
        r"model should be a ppl_vae.* Model, was ppl_vae\.runs\.History",
    ),
    "model-semi": (
        loss("fit", "m2", (X, Y_SEMI), Part("SemiSupervised"), epochs=1),
        "objective should be .*was Part",
    ),
}

OBJECTIVES: dict[str, Row] = {
    "k-0": (loss("ELBO", k=0), "k should be .*at least 1, was 0"),
    "k-half": (loss("ELBO", k=2.5), "k should be a whole number.*was 2.5"),
    "nesting-0": (loss("ELBO", max_plate_nesting=0), "max_plate_nesting .*at least 1, was 0"),
    "beta-infinite": (loss("ELBO", beta=float("inf")), "beta should be finite, was inf"),
    "free-bits-infinite": (loss("ELBO", free_bits=float("inf")), "free_bits should be finite"),
    "baseline": (loss("ELBO", baseline="mean"), "baseline should be .*was 'mean'"),
    "alpha-negative": (loss("SemiSupervised", -1.0), "alpha should be at least 0, was -1.0"),
    "alpha-nan": (loss("SemiSupervised", float("nan")), "alpha should be at least 0, was nan"),
    "alpha-infinite": (loss("SemiSupervised", float("inf")), "alpha should be finite, was inf"),
    "alpha-text": (loss("SemiSupervised", "1"), "alpha should be at least 0, was '1'"),
    "fraction": (
        loss("SemiSupervised", labelled_fraction=2),
        r"labelled_fraction .*\[0, 1\], was 2",
    ),
    "per-batch-0": (
        loss("SemiSupervised", labelled_per_batch=0),
        "labelled_per_batch .*1, was 0",
    ),
    "ciwae-beta": (loss("CIWAE", 2.0, 3), r"beta should be a number in \[0, 1\], was 2.0"),
    "renyi-1": (loss("Renyi", 1.0, 3), "alpha should not be 1.*use ELBO"),
    "renyi-text": (loss("Renyi", "a", 3), "alpha should be a number or -inf, was 'a'"),
    "cubo-1": (loss("CUBO", 1.0, 3), "n should be a number above 1, was 1.0"),
    "vimco-1": (loss("VIMCO", 1), "k should be a whole number of at least 2, was 1"),
    "vimco-mean": (loss("VIMCO", 3, "harmonic"), ".*should be .*was 'harmonic'"),
    "tvo-bound": (loss("TVO", 3, 2, "middle"), "bound should be .*was 'middle'"),
    "temperature": (loss("Relaxed", 0.0), "temperature should be a positive number, was 0.0"),
    "tolerance": (loss("GECO", float("inf")), "tolerance should be a finite number, was inf"),
    "hybrid-alpha": (loss("Hybrid", 1.5), r"alpha should be a number in \[0, 1\], was 1.5"),
    "lagging": (loss("Lagging", "ELBO"), "objective should be .*was str"),
    "lr-schedule": (loss("ExponentialDecay", 1.0, 0.0, 9), "end should be a positive.*was 0.0"),
    "warmup": (loss("Warmup", 0), "epochs should be a whole number of at least 1, was 0"),
}

MODELS: dict[str, Row] = {
    "activation": (new("MLP", 3, (4,), "cubic"), "activation should be one of .*was 'cubic'"),
    "hidden-0": (new("VAE", 6, 2, (4, 0)), "hidden should be .*at least 1, was 0"),
    "hidden-number": (new("VAE", 6, 2, 4), "hidden should be .*sizes.*was 4"),
    "hidden-half": (new("VAE", 6, 2, (2.5,)), "hidden should be a whole number.*was 2.5"),
    "hidden-empty-m2": (new("M2", 6, 3, 2, ()), "hidden should name a layer to join 2 inputs"),
    "x_dim-0": (new("VAE", 0, 2, (4,)), "dims? should be .*at least 1, was 0"),
    "z_dim-0": (new("VAE", 6, 0, (4,)), "z_dim should be .*at least 1, was 0"),
    "out_dim-0": (new("DiagNormalNet", 6, 0, (4,)), "out_dim should be .*at least 1, was 0"),
    "out_dim-0-bernoulli": (new("BernoulliNet", 6, 0, (4,)), "out_dim should .*1, was 0"),
    "z_dim-negative": (new("StandardNormal", -3), "z_dim should be .*at least 1, was -3"),
    "n_classes-1": (new("M2", 6, 1, 2, (4,)), "n_classes should be .*at least 2, was 1"),
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
    "load-python": (lambda b: b.models.Model.load(__file__), "path should be a whole file .*was"),
}

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


MEASURED: dict[str, Row] = {
    f"{name}-{wrong}": (measured(name, model, data), says)
    for name in (*MEASURES, *NEED_ARVIZ)
    for wrong, (model, data, says) in WRONG.items()
    if not (name == "bdmc" and wrong == "nan")  # of these data only the shapes matter
} | {
    "likelihood-k": (of_vae("log_likelihood", 0), "k should be .*at least 1, was 0"),
    "likelihood-method": (of_vae("log_likelihood", method="is"), "method .*iw or ais, was 'is'"),
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
    "kl-batch": (of_vae("kl_per_site", batch_size=0), "batch_size .*at least 1, was 0"),
    "bdmc-number": (
        lambda backend: backend.inference.bdmc(backend.make("vae"), 0),
        "data should be a whole number of at least 1, was 0",
    ),
    "bdmc-seed": (
        lambda backend: backend.inference.bdmc(backend.make("vae"), 2, seed=None),
        "seed should be a whole number.*was None",
    ),
    "gaps-family": (of_vae("gaps", ("iaf",)), "families should be .*was 'iaf'"),
    "gaps-families": (of_vae("gaps", 2), "families should be some of .*was 2"),
    "collapse-delta": (of_vae("posterior_collapse", delta="a"), r"delta .*\[0, 1\), was 'a'"),
    "collapse-k": (of_vae("posterior_collapse", k=3), "k should be .*even.*was 3"),
    "surgery-k": (of_vae("elbo_surgery", k=0), "k should be .*at least 1, was 0"),
    "calibration-k": (
        lambda backend: backend.inference.calibration(backend.make("vae"), k=98),
        r"k \+ 1 should be a multiple of bins \(20\).*was 99",
    ),
    "calibration-seed": (
        lambda backend: backend.inference.calibration(backend.make("vae"), 100, seed=-1),
        "seed should be a whole number.*was -1",
    ),
    "diagnose-simulations": (
        of_vae("diagnose", 100, simulations=5),
        "simulations should be a whole number of at least 100, was 5",
    ),
    "impute-observed": (of_vae("impute", X), "observed should be of a boolean type, was float32"),
    "impute-seed": (of_vae("impute", X > 0.5, seed="a"), "seed should be a whole.*was 'a'"),
    "stats-objective": (lambda b: stats(b, "ELBO"), "objective should be .*was str"),
    "stats-repeats": (lambda b: stats(b, repeats=1), "repeats should be .*at least 2, was 1"),
    "stats-truth": (lambda b: stats(b, truth=3), "truth should be .*was int"),
    "compare-name": (compared("ELBO"), "objectives should be .*was 'ELBO'"),
    "compare-names": (compared(["ELBO"]), "objectives should be .*objective, was str"),
    "compare-none": (compared({}), "objectives should be at least one, was none"),
    "compare-k": (
        lambda backend: compared([backend.inference.ELBO()], k=0)(backend),
        "k should be .*at least 1, was 0",
    ),
}

ROWS: dict[str, Row] = {**DATA, **FIT, **OBJECTIVES, **MODELS, **MEASURED}
assert len(ROWS) == sum(map(len, (DATA, FIT, OBJECTIVES, MODELS, MEASURED)))
EXTRAS = {"arviz": ("pareto_k", "to_arviz", "diagnose"), "pandas": ("stats", "gradient", "compare")}


def needs(name: str) -> list[str]:
    """The packages, not always installed, that a row needs."""
    return [package for package, starts in EXTRAS.items() if name.startswith(starts)]
