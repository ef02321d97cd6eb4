"""Weights and data at the ends of what is legal, for both backends: single precision holds them.

Every number is within its range by itself, and in a pair all are at their ends together. What no
32-bit number holds is left out, by the ranges: the square of a standardised distance, times an
input (the gradient of a weight), should be below 3e38. So scales are 1e-12 to 1e3 or 1e-6 to 1e6
in one pair, and not 1e-12 beside 1e6.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from cases import Part
from every_objective import LOSSES, Kind
from hypothesis import HealthCheck, Phase, settings

X_DIM, Z_DIM, N_CLASSES, N = 2, 2, 3, 2
LOGIT, LOC = 1e4, 1e3
SCALES = ((1e-12, 1e3), (1e-6, 1e6))
SQUARES = {"TVO", "TVO-upper"}
"""Their gradients have products of two log weights, which are 1e17 at most."""
NARROW = (1e-3, 1e3)

_REAL = {"x_dim": X_DIM, "z_dim": Z_DIM, "hidden": ()}
_LINE = {"out_dim": X_DIM, "hidden": ()}
_ON_Z = Part("DiagNormalNet", {"in_dims": Z_DIM, **_LINE})
_RANK_ONE = Part("RankOneNormalNet", {"in_dims": X_DIM, "out_dim": Z_DIM, "hidden": ()})
_LABELS = {**_REAL, "hidden": (2,), "n_classes": N_CLASSES}
_IN = {"in_dims": (Z_DIM, N_CLASSES), "out_dim": X_DIM, "hidden": (2,)}
_ON_Z_AND_Y = Part("DiagNormalNet", _IN)
_LAYERS = {"x_dim": X_DIM, "z_dims": (Z_DIM,)}
_LADDER = {"x_dim": X_DIM, "z_dims": (2, 1), "hidden": ((), ()), "batch_norm": False}


@dataclass(frozen=True)
class Extreme:
    """A pair with its kinds of latents, and whether its data are numbers."""

    model: Part
    kinds: tuple[Kind, ...]
    real: bool


PAIRS = {
    "vae": Extreme(Part("VAE", _REAL), ("number",), real=False),
    "vae-normal": Extreme(Part("VAE", {**_REAL, "decoder": _ON_Z}), ("number",), real=True),
    "rank-one": Extreme(Part("VAE", {**_REAL, "encoder": _RANK_ONE}), ("number",), real=False),
    "ladder": Extreme(Part("LadderVAE", _LADDER), ("number",), real=False),
    "sbn": Extreme(Part("SBN", _LAYERS), ("class",), real=False),
    "sbn-normal": Extreme(Part("SBN", {**_LAYERS, "decoder": _ON_Z}), ("class",), real=True),
    "m2": Extreme(Part("M2", _LABELS), ("label",), real=False),
    "m2-normal": Extreme(Part("M2", {**_LABELS, "decoder": _ON_Z_AND_Y}), ("label",), real=True),
}


def examples(number: int) -> settings:
    """The settings of a test: that many examples, the same every time."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # to look for a smaller one takes minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def pairs_of(name: str) -> list[str]:
    """The pairs that an objective, by its row of the table, is for."""
    wanted = set(LOSSES[name].kinds)
    return [pair for pair, extreme in PAIRS.items() if wanted & set(extreme.kinds)]


def range_of(parameter: str, scales: tuple[float, float]) -> tuple[float, float]:
    """The ends of an entry of the parameter of this name."""
    if not parameter.endswith(("bias", "prior.logits")):
        return (0.0, 0.0) if ".log_" in parameter else (-1.0, 1.0)
    if ".log_var." in parameter:
        return 2 * math.log(scales[0]), 2 * math.log(scales[1])
    if ".log_precision." in parameter:
        return -2 * math.log(scales[1]), -2 * math.log(scales[0])
    largest = LOGIT if "logits" in parameter else LOC
    return -largest, largest


def arrays(shape: tuple[int, ...], low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    """Numbers in an interval, many of them at its ends or 0."""
    low, high = (float(np.float32(end)) for end in (low, high))
    inside = st.floats(low, high, width=32, allow_subnormal=False)
    ends = st.sampled_from((low, min(max(0.0, low), high), high))
    return hnp.arrays(np.float32, shape, elements=ends | inside)


@st.composite
def extremes(
    draw: Any, shapes: Mapping[str, tuple[int, ...]], *, real: bool, name: str
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """Weights by their names, and the data of an objective."""
    scales = NARROW if name in SQUARES else draw(st.sampled_from(SCALES))
    ranges = {parameter: range_of(parameter, scales) for parameter in shapes}
    weights = {p: draw(arrays(tuple(shapes[p]), *ends)) for p, ends in ranges.items()}
    x = draw(arrays((N, X_DIM), -LOC if real else 0.0, LOC if real else 1.0))
    labels = np.array([draw(st.integers(-1, N_CLASSES - 1)) for _ in range(N)])
    return weights, (x, labels) if LOSSES[name].labels else (x,)


@st.composite
def log_weights(draw: Any, at_least: int = 1, at_most: int = 1000) -> np.ndarray:
    """Those of up to 1000 particles and two data, (K, N), which differ by up to 1e4 and more."""
    k = draw(st.integers(at_least, at_most))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    spread = draw(st.sampled_from((0.0, 1e-3, 1.0, 1e2, 1e4)))
    log_w = draw(st.floats(-1e4, 1e4, width=32)) + spread * rng.uniform(-1, 1, (k, N))
    if draw(st.booleans()):  # all weight on one particle
        log_w[draw(st.integers(0, k - 1))] += 1e4
    return log_w.astype(np.float32)


def log_mean_exp(log_w: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(log_w, 0) - math.log(len(log_w))


def share(log_w: np.ndarray) -> np.ndarray:
    return np.exp(log_w - np.logaddexp.reduce(log_w, 0))


def even(log_w: np.ndarray) -> np.ndarray:
    return np.full_like(log_w, 1 / len(log_w))


def renyi(power: float) -> Any:
    return lambda log_w: log_mean_exp(power * log_w) / power


def in_halves(of: Any) -> Any:
    """The mean of what `of` says of the first and of the second half of the particles."""

    def halves(log_w: np.ndarray) -> np.ndarray:
        found = [of(part) for part in np.split(log_w, 2)]
        together = np.concatenate(found) if found[0].ndim > 1 else np.add(*found)
        return together / 2

    return halves


def mixed(beta: float) -> tuple[Any, Any]:
    def value(log_w: np.ndarray) -> np.ndarray:
        return beta * log_w.mean(0) + (1 - beta) * log_mean_exp(log_w)

    return value, lambda log_w: beta * even(log_w) + (1 - beta) * share(log_w)


def tvo(points: tuple[float, ...], upper: bool = False) -> Any:
    def value(log_w: np.ndarray) -> np.ndarray:
        at = points[1:] if upper else points[:-1]
        terms = [(share(beta * log_w) * log_w).sum(0) for beta in at]
        return np.tensordot(np.diff(points), terms, 1)

    return value


@dataclass(frozen=True)
class Bound:
    """A bound by its definition, in double precision.

    Attributes:
        cls: The objective's class.
        arguments: Its arguments for K particles.
        value: Of log weights, (K, N) -> (N,).
        gradient: Of the value by the model's log densities, (K, N), where it is known.
        sign: Of the loss.
    """

    cls: str
    arguments: Any
    value: Any
    gradient: Any = None
    sign: int = -1


BOUNDS = (
    {
        "ELBO": Bound("ELBO", lambda k: (k,), lambda log_w: log_w.mean(0), even),
        "STL": Bound("STL", lambda k: (k,), lambda log_w: log_w.mean(0), even),
        "IWAE": Bound("IWAE", lambda k: (k,), log_mean_exp, share),
        "MIWAE": Bound("MIWAE", lambda k: (2, k // 2), in_halves(log_mean_exp), in_halves(share)),
        "PIWAE": Bound("PIWAE", lambda k: (2, k // 2), log_mean_exp, share),
        "CIWAE": Bound("CIWAE", lambda k: (0.3, k), *mixed(0.3)),
        "CIWAE-0": Bound("CIWAE", lambda k: (0.0, k), *mixed(0.0)),
        "CIWAE-1": Bound("CIWAE", lambda k: (1.0, k), *mixed(1.0)),
        "DReG": Bound("DReG", lambda k: (k,), log_mean_exp, share),
        "VIMCO": Bound("VIMCO", lambda k: (k,), log_mean_exp, share),
        "RWS": Bound("RWS", lambda k: (k,), log_mean_exp, share),
        "Renyi-max": Bound("Renyi", lambda k: (float("-inf"), k), lambda log_w: log_w.max(0)),
        "TVO": Bound("TVO", lambda k: (k, (0.0, 1e-6, 0.5, 1.0)), tvo((0.0, 1e-6, 0.5, 1.0))),
        "TVO-upper": Bound(
            "TVO", lambda k: (k, (0.0, 1e-6, 1.0), "upper"), tvo((0.0, 1e-6, 1.0), True), sign=1
        ),
    }
    | {
        f"Renyi-{alpha:g}": Bound(
            "Renyi",
            lambda k, alpha=alpha: (alpha, k),
            renyi(1 - alpha),
            # A rounding of log weights, 1e6-fold, is no longer small in a gradient.
            None if abs(alpha) > 1e3 else lambda log_w, alpha=alpha: share((1 - alpha) * log_w),
        )
        for alpha in (0.5, -1e6, 1e6, 1 - 2**-20, 1 + 2**-20)
    }
    | {
        f"CUBO-{n:g}": Bound("CUBO", lambda k, n=n: (n, k), renyi(n), sign=1)
        for n in (1 + 2**-20, 2.0, 1e6)
    }
)
"""Renyi's near 1, a limit of which is the ELBO; TVO of an interval of nearly no width."""


def tolerance(log_w: np.ndarray) -> float:
    """A few roundings of log weights of this size in single precision."""
    return 1e-5 + 5e-7 * float(np.abs(log_w).max())


def signals(log_w: np.ndarray, mean: str) -> np.ndarray:
    """L - L_{-i} of VIMCO, by K sums of the others."""
    k, found = len(log_w), np.empty_like(log_w)
    for i in range(k):
        others = np.delete(log_w, i, 0)
        alone = others.mean(0) if mean == "geometric" else log_mean_exp(others)
        found[i] = log_mean_exp(log_w) - log_mean_exp(np.vstack([others, alone]))
    return found


ENDS = [
    ("ELBO", "ELBO", {"beta": 0.0}),
    ("ELBO", "ELBO", {"beta": 1e6}),
    ("ELBO-free-bits", "ELBO", {"free_bits": 1e6}),
    ("CUBO", "CUBO", {"n": 1e3, "k": 3}),
    ("Renyi", "Renyi", {"alpha": -1e3, "k": 3}),
    ("Hybrid", "Hybrid", {"alpha": 0.0}),
    ("Hybrid", "Hybrid", {"alpha": 1.0}),
    ("GECO", "GECO", {"tolerance": -1e6, "start": 1e-6, "update": "geco"}),
    ("GECO", "GECO", {"tolerance": 1e6, "start": 1e6}),
    ("SemiSupervised", "SemiSupervised", {"alpha": 0.0}),
    ("SemiSupervised", "SemiSupervised", {"alpha": 1e6}),
    *(("Relaxed", "Relaxed", {"temperature": t}) for t in (1e-30, 1e-6, 1e6, 1e30)),
    ("Relaxed", "Relaxed", {"temperature": 1e-30, "hard": True}),
    ("RWS", "RWS", {"k": 1000}),
    ("IWAE", "IWAE", {"k": 1000}),
]
"""Rows of the table, and their objectives with other arguments, at the ends of these."""
