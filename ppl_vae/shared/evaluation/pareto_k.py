"""Pareto smoothed importance sampling from the guide to the posterior."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.optional_packages import arviz
from ppl_vae.shared.evaluation.pair import Array

MIN_DRAWS, UNRELIABLE = 100, 0.7
TIE_TOLERANCE, MIN_TIES = 1e-4, 5
"""Log weights this close to the largest one are ties; with this many, no tail is fitted."""


@dataclass(frozen=True, eq=False)
class ParetoK:
    """The shape of the tail of each datum's importance weights.

    Attributes:
        values: k-hat of each datum, (n,); minus infinity where several draws share the
            largest weight, which is then a bound.
        k: Number of draws for each datum.
    """

    values: Array
    k: int

    @property
    def share(self) -> float:
        """The share of the data with k-hat above 0.7, whose weights are unreliable."""
        return float((self.values > UNRELIABLE).mean())

    def __str__(self) -> str:
        median = float(np.median(self.values))
        return f"k-hat: median {median:.2f}, above {UNRELIABLE:g} for {self.share:.1%} of the data"


def pareto_k(
    model: AnyModel,
    data: Any,
    k: int = 1000,
    *,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ParetoK:
    """Return k-hat of each datum: how heavy the tail of its weights p(x, z) / q(z | x) is.

    A generalised Pareto distribution of shape k-hat is fitted to the largest of k weights. Below
    0.5 the weights have finite variance; above 0.7 q(z | x) is too far from the posterior, or has
    too light tails, for importance weights to correct it (as in `log_likelihood`). k-hat is minus
    infinity where 5 or more draws share the largest weight, which is then a bound: with the exact
    posterior, or discrete latents with few states.

    Needs ArviZ: pip install 'ppl_vae[diagnostics]'.

    References:
        Yao, Vehtari, Simpson & Gelman, "Yes, but did it work?: evaluating variational inference",
        ICML 2018, arXiv:1802.02538, section 3.
        Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance sampling", JMLR 2024,
        arXiv:1507.02646.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        k: Number of draws for each datum, at least 100; all n k weights are kept.
        batch_size: Batch size; limits peak memory, apart from the weights.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide has no latent site, a site lies outside the data plate, or an argument
            is invalid.
        ImportError: ArviZ is not installed.
    """
    check_whole("k", k, MIN_DRAWS)
    arviz()  # before the draws, which take long
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return ParetoK(smoothed(pair_of(model, data, **settings).log_weights(k))[1], k)


def smoothed(log_w: Array) -> tuple[Array, Array]:
    """Return smoothed log weights, normalised over draws, (k, n), and k-hat of each datum, (n,).

    Raises:
        ValueError: weights are NaN or infinite, or all weights of a datum are 0.
    """
    log_w = np.array(log_w.T, np.float64, order="C")
    wrong = ~(log_w.max(1) < np.inf) | (log_w.max(1) == -np.inf)
    if wrong.any():
        raise ValueError(
            f"log weights should be numbers, were not for {wrong.sum()} of {len(wrong)} data: the "
            "model or its guide has gone wrong, or gives these data the density 0"
        )
    log_w -= log_w.max(1, keepdims=True)
    values = np.full(len(log_w), -np.inf)
    # Where several draws share the largest weight up to rounding, there is no tail to fit.
    tailed = (log_w > -TIE_TOLERANCE).sum(1) < MIN_TIES
    weights = log_w - np.log(np.exp(log_w).sum(1, keepdims=True))
    if tailed.any():
        weights[tailed], values[tailed] = arviz().psislw(log_w[tailed])
    return weights.T, values
