"""Bias, variance and signal-to-noise ratio of gradient estimates, by group of parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ppl_vae.shared.checks import as_numpy, check_type, check_whole, next_seed
from ppl_vae.shared.evaluation.backends import AnyModel, AnyObjective, module_of, pair_of
from ppl_vae.shared.evaluation.optional_packages import pandas

Gradients = Mapping[str, np.ndarray]


class Moments:
    """Running mean and variance of gradients by parameter name.

    Welford's algorithm (1962) takes squares around the running mean, so that a small variance
    beside a large mean keeps its digits.
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
        """Return the trace of the covariance of these parameters' gradients."""
        return float(sum(self.squares[name].sum() for name in names)) / (self.repeats - 1)


def gradient_stats(
    objective: AnyObjective,
    model: AnyModel,
    batch: Any,
    repeats: int = 100,
    *,
    truth: AnyObjective | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """Return bias, variance and signal-to-noise ratio of gradient estimates, by network.

    With g the gradient of the loss per datum with respect to the parameters of a group, a vector,
    and its expectation and covariance over draws, given the batch:

        norm = ||E g||,   variance = tr Cov g,   snr = ||E g|| / sqrt(tr Cov g)            (1)
        bias = ||mean of g - truth||,   chance = the expected bias of unbiased estimates

    ||E g|| is estimated by subtracting the noise part of ||mean of g||^2, and is 0 where only noise
    is left.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh, "Tighter variational bounds are not
        necessarily better", ICML 2018, arXiv:1802.04537, section 3.

    Differs from the paper:
        (1) is the ratio of a group's norms, where the paper has one for each single parameter.

    Args:
        objective: The objective to differentiate.
        model: The model/guide pair, in its current mode (training or evaluation; a NumPyro pair in
            evaluation mode). Parameters, gradients and running statistics do not change.
        batch: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        repeats: Number of estimates.
        truth: The gradients of the loss per datum by parameter name, or an objective with unbiased
            gradients, of which as many estimates are averaged.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.

    Returns:
        A pandas DataFrame, a row for each group: the parameters of one attribute of the model
        ("encoder", "decoder"), with the columns "parameters" (their number), "norm", "variance",
        "snr", and with a truth "bias" and "chance".

    Raises:
        ValueError: the batch is not the model's, there are fewer than 2 repeats, or the truth has
            other parameters.
        ImportError: pandas is not installed.
    """
    module_of(model, "models.base").check_model(model)
    base = module_of(model, "inference.objectives.parts.base")
    base.check_objective("objective", objective)
    kinds = base.Objective | Mapping | None
    check_type("truth", truth, kinds, "an objective or gradients by name")
    check_repeats(repeats)

    def moments(objective: Any, seed: int) -> Moments:
        pair = pair_of(model, batch, seed=seed, objective=objective)
        gradients = module_of(model, "inference.evaluation.gradients").gradients
        return Moments(gradients(pair, objective, repeats))

    estimates = moments(objective, seed)
    if truth is None:
        return statistics(estimates, None)
    if isinstance(truth, Mapping):
        return statistics(estimates, {name: as_numpy(value) for name, value in truth.items()})
    return statistics(estimates, moments(truth, next_seed(seed)))


def check_repeats(repeats: int) -> None:
    """Check that there are enough estimates for a variance."""
    check_whole("repeats", repeats, 2)


def statistics(estimates: Moments, truth: Gradients | Moments | None) -> Any:
    """Return a row for each group of parameters; see `gradient_stats`.

    Raises:
        ValueError: the truth has other parameters.
    """
    true_mean = truth.mean if isinstance(truth, Moments) else truth
    _check_truth(estimates.mean, true_mean)
    rows = {}
    for group, names in _groups(estimates.mean).items():
        mean = _flat(estimates.mean, names)
        variance = estimates.variance(names)
        chance = variance / estimates.repeats  # of the squared norm of the mean
        signal = max(float(mean @ mean) - chance, 0.0) ** 0.5
        row = {
            "parameters": mean.size,
            "norm": signal,
            "variance": variance,
            "snr": signal / variance**0.5 if variance > 0 else np.inf if signal else np.nan,
        }
        if true_mean is not None:
            bias = mean - _flat(true_mean, names)
            if isinstance(truth, Moments):
                chance += truth.variance(names) / truth.repeats
            row |= {"bias": float(bias @ bias) ** 0.5, "chance": chance**0.5}
        rows[group] = row
    return pandas().DataFrame.from_dict(rows, orient="index")


def _groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the parameter names of each network."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    return groups


def _flat(arrays: Gradients, names: Iterable[str]) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[name], np.float64).reshape(-1) for name in names])


def _check_truth(mean: Gradients, truth: Gradients | None) -> None:
    if truth is None:
        return
    shapes = {name: np.shape(value) for name, value in mean.items()}
    others = {name: np.shape(value) for name, value in truth.items()}
    if shapes != others:
        differ = sorted(n for n in {**shapes, **others} if shapes.get(n) != others.get(n))
        raise ValueError(f"truth should have a gradient of every parameter, differed in {differ}")
