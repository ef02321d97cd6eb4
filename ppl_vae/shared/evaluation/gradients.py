"""Bias, variance and signal of gradient estimates, by group of parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.optional_packages import pandas

Gradients = Mapping[str, np.ndarray]


class Moments:
    """Mean and variance of gradients by the name of the parameter, one estimate after another.

    Sums of squares are taken around the running mean (Welford 1962), so that a small variance
    beside a large mean keeps its digits, and no estimate is kept.
    """

    def __init__(self, estimates: Iterable[Gradients]) -> None:
        self.repeats = 0
        self.mean: dict[str, np.ndarray] = {}
        self.squares: dict[str, np.ndarray] = {}
        for gradients in estimates:
            self.repeats += 1
            for name, gradient in gradients.items():
                self._add(name, np.asarray(gradient, dtype=np.float64))

    def _add(self, name: str, value: np.ndarray) -> None:
        mean = self.mean.setdefault(name, np.zeros_like(value))
        squares = self.squares.setdefault(name, np.zeros_like(value))
        before = value - mean
        mean += before / self.repeats
        squares += before * (value - mean)

    def variance(self, names: Iterable[str]) -> float:
        """The trace of the covariance of these parameters' gradients."""
        return float(sum(self.squares[name].sum() for name in names)) / (self.repeats - 1)


def check_repeats(repeats: int) -> None:
    """There are enough estimates for a variance."""
    check_whole("repeats", repeats, 2)


def statistics(found: Moments, truth: Gradients | Moments | None) -> Any:
    """A row for each group of parameters; see `ppl_vae.inference.gradient_stats`.

    Raises:
        ValueError: the truth is of other parameters.
    """
    true_mean = truth.mean if isinstance(truth, Moments) else truth
    _check_truth(found.mean, true_mean)
    rows = {}
    for group, names in _groups(found.mean).items():
        mean = _flat(found.mean, names)
        variance = found.variance(names)
        chance = variance / found.repeats  # of the squared norm of the mean
        signal = max(float(mean @ mean) - chance, 0.0) ** 0.5
        row = {
            "parameters": mean.size,
            "norm": signal,
            "variance": variance,
            "snr": signal / variance**0.5 if variance > 0 else np.inf if signal else np.nan,
        }
        if true_mean is not None:
            away = mean - _flat(true_mean, names)
            if isinstance(truth, Moments):
                chance += truth.variance(names) / truth.repeats
            row |= {"bias": float(away @ away) ** 0.5, "chance": chance**0.5}
        rows[group] = row
    return pandas().DataFrame.from_dict(rows, orient="index")


def _groups(names: Iterable[str]) -> dict[str, list[str]]:
    """The networks, and the names of the parameters of each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    return groups


def _flat(arrays: Gradients, names: Iterable[str]) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[name], np.float64).reshape(-1) for name in names])


def _check_truth(found: Gradients, truth: Gradients | None) -> None:
    if truth is None:
        return
    shapes = {name: np.shape(value) for name, value in found.items()}
    others = {name: np.shape(value) for name, value in truth.items()}
    if shapes != others:
        differ = sorted(n for n in {**shapes, **others} if shapes.get(n) != others.get(n))
        raise ValueError(f"truth should have a gradient of every parameter, differed in {differ}")
