"""Pareto smoothed importance sampling from the guide to the posterior."""

from dataclasses import dataclass

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.optional_packages import arviz
from ppl_vae.shared.evaluation.pair import Array, Pair

FEWEST, UNRELIABLE = 100, 0.7
EQUAL, SEVERAL = 1e-4, 5


@dataclass(frozen=True, eq=False)
class ParetoK:
    """The shape of the tail of each datum's importance weights.

    Attributes:
        values: k-hat of each datum, (n,); minus infinity where several draws have the largest
            weight, which is then a bound.
        k: Number of draws that it is estimated from.
    """

    values: Array
    k: int

    @property
    def share(self) -> float:
        """The share of the data with k-hat above 0.7, for which the weights are not reliable."""
        return float((self.values > UNRELIABLE).mean())

    def __str__(self) -> str:
        median = float(np.median(self.values))
        return f"k-hat: median {median:.2f}, above {UNRELIABLE:g} for {self.share:.1%} of the data"


def pareto_k(pair: Pair, k: int) -> ParetoK:
    """See `ppl_vae.inference.evaluation.diagnostics.pareto_k`."""
    check_whole("k", k, FEWEST)
    arviz()  # before the draws, which take long
    return ParetoK(smoothed(pair.log_weights(k))[1], k)


def smoothed(log_w: Array) -> tuple[Array, Array]:
    """Smoothed log weights that sum to one over draws, (k, n), and k-hat of each datum, (n,).

    Raises:
        ValueError: there are weights that are no numbers, or none above 0.
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
    # Where several draws have the largest weight, but for rounding, there is no tail to be fitted.
    tailed = (log_w > -EQUAL).sum(1) < SEVERAL
    found = log_w - np.log(np.exp(log_w).sum(1, keepdims=True))
    if tailed.any():
        found[tailed], values[tailed] = arviz().psislw(log_w[tailed])
    return found.T, values
