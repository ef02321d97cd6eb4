"""Bad input of measurements."""

from collections.abc import Callable
from typing import Any

from bad_calls import NAN, Backend, Call, Row, X, Y, of_vae

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
    "gaps-family": (
        of_vae("gaps", ("iaf",)),
        "^each of families should be gaussian or full or flow, was 'iaf'",
    ),
    "gaps-chains": (of_vae("gaps", method="ais", chains=0), "chains .*at least 1, was 0"),
    "gaps-foreign": (
        of_vae("gaps", adaptation=30),
        "adaptation .*left out with method='iw', .*was 30: it is of method='ais' or 'both'",
    ),
    "to_arviz-resample": (of_vae("to_arviz", resample="False"), "resample .*False, was 'False'"),
    "to_arviz-predictive": (
        of_vae("to_arviz", predictive="False"),
        "predictive should be True or False, was 'False'",
    ),
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
        "test should be data .*, but x should be finite, held NaN",
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

SEEDED: dict[str, Callable[..., Any]] = {
    "mean_loss": lambda room, model, **seed: room.mean_loss(model, X, **seed),
    "log_likelihood": lambda room, model, **seed: room.log_likelihood(model, X, 5, **seed),
    "bdmc": lambda room, model, **seed: room.bdmc(model, 2, **SMALL, **seed),
    "gaps": lambda room, model, **seed: room.gaps(model, X, ("gaussian",), k=2, steps=1, **seed),
    "active_units": lambda room, model, **seed: room.active_units(model, X, **seed),
    "posterior_collapse": lambda room, model, **seed: room.posterior_collapse(model, X, **seed),
    "elbo_surgery": lambda room, model, **seed: room.elbo_surgery(model, X, **seed),
    "calibration": lambda room, model, **seed: room.calibration(model, 100, **seed),
    "impute": lambda room, model, **seed: room.impute(model, X, X > 0.5, steps=1, **seed),
    "gradient_stats": lambda room, model, **seed: room.gradient_stats(
        room.ELBO(), model, X, 2, **seed
    ),
    "compare": lambda room, model, **seed: room.compare(
        model, [room.ELBO()], X, X, epochs=1, progress=False, **seed
    ),
    "pareto_k": lambda room, model, **seed: room.pareto_k(model, X, 100, **seed),
    "to_arviz": lambda room, model, **seed: room.to_arviz(model, X, 4, **seed),
    "diagnose": lambda room, model, **seed: room.diagnose(model, X, 100, simulations=100, **seed),
}


def seeded(name: str) -> Call:
    """A call of a measurement with a seed that jax would take for another one."""
    return lambda backend: SEEDED[name](backend.inference, backend.make("vae"), seed=2**32)


for _name in SEEDED:
    MEASURED[f"{_name}-seed-large"] = (
        seeded(_name),
        r"^seed should be below 2\*\*32, was 4294967296",
    )
