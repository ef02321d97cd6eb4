"""Simulation-based calibration: ranks of what was simulated among the guide's draws."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.shared.checks import as_numpy, check_lengths, check_whole, sample_once
from ppl_vae.shared.evaluation.pair import Array, Arrays, GuideDraws, Pair, flat

SIGNIFICANT = 0.01


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of simulated latents among draws from the guide, and how far they are from uniform.

    Attributes:
        ranks: Ranks 0, ..., k of each simulation and unit, (n, units) by site.
        k: Number of draws for each simulation.
        bins: Number of bins of the test, of (k + 1) / bins ranks each.
    """

    ranks: Mapping[str, Array]
    k: int
    bins: int

    @property
    def n(self) -> int:
        """Number of simulations."""
        return len(next(iter(self.ranks.values())))

    @property
    def counts(self) -> dict[str, Array]:
        """Numbers of ranks in each bin, (units, bins) by site."""
        binned = {name: ranks * self.bins // (self.k + 1) for name, ranks in self.ranks.items()}
        return {
            name: np.stack([np.bincount(unit, minlength=self.bins) for unit in value.T])
            for name, value in binned.items()
        }

    @property
    def p_values(self) -> dict[str, Array]:
        """Pearson's chi-square test of uniform ranks for each unit alone, (units,) by site."""
        from scipy.stats import chi2  # of scikit-learn

        expected = self.n / self.bins
        statistics = {n: ((c - expected) ** 2 / expected).sum(1) for n, c in self.counts.items()}
        return {name: chi2.sf(value, self.bins - 1) for name, value in statistics.items()}

    @property
    def adjusted(self) -> dict[str, Array]:
        """The same by Holm's step-down correction for all units of all sites.

        Where all units are calibrated, one of them is below alpha with probability alpha at most.
        """
        raw = self.p_values
        sizes = np.cumsum([len(value) for value in raw.values()])[:-1]
        corrected = np.split(holm(np.concatenate(list(raw.values()))), sizes)
        return dict(zip(raw, corrected, strict=True))

    @property
    def spread(self) -> dict[str, Array]:
        """The variance of ranks relative to uniform ones, (units,) by site.

        Above 1 where draws lie too close together (ranks like a U), below 1 where too far apart.
        """
        uniform = ((self.k + 1) ** 2 - 1) / 12
        return {
            name: ((ranks - self.k / 2) ** 2).mean(0) / uniform
            for name, ranks in self.ranks.items()
        }

    def uneven(self, alpha: float = SIGNIFICANT) -> dict[str, Array]:
        """Which units have ranks that are not uniform, by the adjusted p-values."""
        return {name: value < alpha for name, value in self.adjusted.items()}

    def __str__(self) -> str:
        uneven, spread, adjusted = self.uneven(), self.spread, self.adjusted
        lines = [f"calibration by {self.n} simulations with {self.k} draws each"]
        for name, flags in uneven.items():
            worst = float(adjusted[name].min())
            mean = float(np.median(spread[name]))
            lines.append(
                f"{name}: {int(flags.sum())} of {len(flags)} units not uniform, smallest p "
                f"{worst:.2g} (adjusted), variance of ranks {mean:.2f} of a uniform one (median)"
            )
        return "\n".join(lines)


def check_calibration(n: int, k: int, bins: int) -> None:
    """Numbers of simulations, draws and bins for which the test holds."""
    check_whole("bins", bins, 2)
    check_whole("k", k, 1)
    if (k + 1) % bins:
        raise ValueError(
            f"k + 1 should be a multiple of bins ({bins}), so that each has as many ranks, was "
            f"{k + 1}"
        )
    check_whole("n", n, 5 * bins)  # for the chi-square distribution of the statistic


def calibration(pair: Pair, truth: Arrays, k: int, bins: int, seed: int) -> Calibration:
    """Ranks of `truth`, the latents (n, *units) that the pair's data were simulated with."""
    rng = np.random.default_rng(seed)
    parts = pair.guide(k, lambda draws: _ranks(draws, truth, rng))
    ranks = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Calibration(ranks, k, bins)


def _ranks(draws: GuideDraws, truth: Arrays, rng: np.random.Generator) -> Arrays:
    """How many draws are below the truth, (N, units); of equal ones each place is as likely."""
    found = {}
    for name, value in draws.values.items():
        units = flat(value)
        true = flat(truth[name][None, draws.rows])
        below, equal = (units < true).sum(0), (units == true).sum(0)
        found[name] = below + rng.integers(0, equal + 1)
    return found


def simulation(
    model: Any,
    data: Any,
    n: int,
    simulate: Callable[[list[Any]], Mapping[str, Any]],
    seed: int,
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Data of n simulations, the arguments of `model.model`, and the values of all sites.

    Args:
        model: The pair.
        data: What the simulations are given, of which n rows are chosen with repetition, or None.
        n: Number of simulations.
        simulate: Gives a draw of every site from arrays of n rows.
        seed: Of the choice of rows.
    """
    if data is None:
        given = list(model.blank(n))
    else:
        arrays = sample_once(tuple(data) if isinstance(data, tuple | list) else (data,), seed)
        rows = np.random.default_rng(seed).integers(0, check_lengths(*arrays), n)
        model.check(*arrays)
        given = [array[rows] for array in arrays]
    sites = simulate(given)
    names = list(inspect.signature(model.model).parameters)[: len(given)]
    conditions = [name for name in names if name not in sites]
    if data is None and conditions:
        raise ValueError(
            f"data should hold the conditions of the simulations ({', '.join(conditions)}), "
            "with arrays of the right shape in the place of what is simulated, was None"
        )
    args = tuple(
        as_numpy(sites.get(name, value)).astype(as_numpy(value).dtype)
        for name, value in zip(names, given, strict=True)
    )
    return args, sites


def holm(p_values: Array) -> Array:
    """Adjusted p-values of several tests: the i-th smallest of m times m - i + 1, increasing."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted
