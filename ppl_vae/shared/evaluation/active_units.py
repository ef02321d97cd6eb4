"""Active latent units: units whose posterior mean varies with the datum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ppl_vae.shared.checks import check_positive, check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.pair import Array, GuideDraws, Pair
from ppl_vae.shared.evaluation.sites import check_several


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """The variance over data of the posterior mean of each latent unit.

    Attributes:
        variances: A_u of each unit by its site, (units,).
        errors: Their standard errors over the data, of the same shape.
        threshold: Units with a larger A_u are active.
    """

    variances: Mapping[str, Array]
    errors: Mapping[str, Array]
    threshold: float

    @classmethod
    def of_pair(cls, pair: Pair, threshold: float, k: int) -> Self:
        """Measure a pair with k draws for each datum; see `active_units`."""
        check_positive("threshold", threshold)
        check_whole("k", k, 2)
        if k % 2:
            raise ValueError(f"k should be even, for two halves of the draws, was {k}")
        check_several(pair.n)
        halves = pair.guide(k, lambda draws: _halves(draws, k // 2))
        variances, errors = {}, {}
        for name in halves[0]:
            first, second = (np.concatenate([part[name][i] for part in halves]) for i in (0, 1))
            product = (first - first.mean(0)) * (second - second.mean(0))
            product = product.sum(-1)  # over classes
            variances[name] = product.sum(0) / (pair.n - 1)
            errors[name] = product.std(0, ddof=1) / pair.n**0.5
        return cls(variances, errors, threshold)

    @property
    def active(self) -> dict[str, Array]:
        """Whether each unit is active, (units,) by site."""
        return {name: value > self.threshold for name, value in self.variances.items()}

    @property
    def counts(self) -> dict[str, int]:
        """The number of active units of each site."""
        return {name: int(active.sum()) for name, active in self.active.items()}

    @property
    def total(self) -> int:
        """The number of active units of all sites."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        parts = [f"{name} {n} of {len(self.variances[name])}" for name, n in self.counts.items()]
        return f"active units: {', '.join(parts)}"


def active_units(
    model: AnyModel,
    data: Any,
    threshold: float = 0.01,
    *,
    k: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ActiveUnits:
    """Return the active latent units: those whose posterior mean differs between data.

        A_u = Var_x(E_q[z_u | x]) > threshold                                            (1)

    The inner mean is the mean of the guide's distribution: exact where a site depends on x alone,
    otherwise averaged over k draws of the sites drawn before. As the variance (1) of an average is
    too large by the variance of its noise, it is estimated without bias by the covariance over data
    of the averages of two halves of the draws; the estimate can be slightly negative. The variance
    of a discrete unit is that of its probabilities: of the probability of 1 if it is binary, else
    summed over classes. Where a distribution has no mean (a flow), the draws are averaged.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, section 5.2.

    Differs from the paper:
        The unbiased estimate (the paper: the mean of the draws).

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once. At least 2 data.
        threshold: Lower limit on A_u of an active unit.
        k: Number of draws for each datum, even.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide has no latent site, or a latent site lies outside the data plate or
            has a mask, or an argument is invalid.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return ActiveUnits.of_pair(pair_of(model, data, **settings), threshold, k)


def _halves(draws: GuideDraws, half: int) -> dict[str, tuple[Array, Array]]:
    """Return posterior means by the two halves of the draws, (N, units, classes) each."""
    halves = {}
    for name, mean in draws.means.items():
        units = mean.reshape(*mean.shape[:2], -1, mean.shape[-1]).astype(np.float64)
        halves[name] = units[:half].mean(0), units[half:].mean(0)
    return halves
