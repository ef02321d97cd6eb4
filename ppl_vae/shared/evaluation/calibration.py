"""Simulation-based calibration: ranks of simulated latents among the guide's draws."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.shared.checks import (
    as_numpy,
    check_lengths,
    check_seed,
    check_whole,
    next_seed,
    sample_once,
)
from ppl_vae.shared.evaluation.backends import AnyModel, module_of, pair_of
from ppl_vae.shared.evaluation.pair import Array, Arrays, GuideDraws, as_tuple, flat

SIGNIFICANCE = 0.01


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of simulated latents among draws from the guide, with a test of uniformity.

    Attributes:
        ranks: Rank, 0 to k, of each simulation and unit, (n, units) by site.
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
        """P-values of Pearson's chi-square test of uniform ranks, uncorrected, (units,) by site."""
        from scipy.stats import chi2  # a dependency of scikit-learn

        expected = self.n / self.bins
        statistics = {n: ((c - expected) ** 2 / expected).sum(1) for n, c in self.counts.items()}
        return {name: chi2.sf(value, self.bins - 1) for name, value in statistics.items()}

    @property
    def adjusted(self) -> dict[str, Array]:
        """P-values with Holm's step-down correction for all units of all sites.

        If all units are calibrated, any of them is below alpha with probability at most alpha.
        """
        raw = self.p_values
        sizes = np.cumsum([len(value) for value in raw.values()])[:-1]
        corrected = np.split(holm(np.concatenate(list(raw.values()))), sizes)
        return dict(zip(raw, corrected, strict=True))

    @property
    def spread(self) -> dict[str, Array]:
        """The variance of ranks relative to uniform ranks, (units,) by site.

        Above 1 where draws lie too close together (U-shaped ranks), below 1 where too far apart.
        """
        uniform = ((self.k + 1) ** 2 - 1) / 12
        return {
            name: ((ranks - self.k / 2) ** 2).mean(0) / uniform
            for name, ranks in self.ranks.items()
        }

    def uneven(self, alpha: float = SIGNIFICANCE) -> dict[str, Array]:
        """Return whether the ranks of each unit are not uniform, by the adjusted p-values."""
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


def calibration(
    model: AnyModel,
    n: int = 1000,
    k: int = 99,
    *,
    data: Any = None,
    bins: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Calibration:
    """Check the guide by simulation-based calibration: ranks are uniform if it is the posterior.

        z, x ~ p(z, x),    z_1, ..., z_k ~ q(z | x),    rank = #{i: z_i < z}             (1)

    of each latent unit, n times. If q(z | x) = p(z | x) for data simulated from the model, z is
    exchangeable with the draws, and its rank is uniform on 0, ..., k. A guide that is too narrow
    gives many ranks near 0 and k (a U shape), one that is too wide gives few; a biased mean gives
    more ranks on one side. Uniform ranks of all units do not prove that the guide is right:
    dependence between units is not tested, and a guide that equals the prior passes.

    The test is Pearson's chi-square over `bins` bins; the p-values of all units are corrected
    by Holm's method (`adjusted`). Ties (discrete latents) are broken at random, which keeps ranks
    uniform.

    References:
        Talts, Betancourt, Simpson, Vehtari & Gelman, "Validating Bayesian inference algorithms with
        simulation-based calibration", 2018, arXiv:1804.06788, algorithm 1.
        Yao, Vehtari, Simpson & Gelman, "Yes, but did it work?: evaluating variational inference",
        ICML 2018, arXiv:1802.02538, section 4.
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        n: Number of simulations, at least 5 for each bin.
        k: Number of draws from the guide for each; k + 1 is a multiple of `bins`.
        data: For models with conditions: the arguments of `model.model`, of which n rows are
            sampled with replacement. Arguments named like a site are replaced by the simulation.
        bins: Number of bins of the test.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for simulations and draws. The global RNG state is restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: a latent site of the guide lies outside the data plate, an observed site does
            not have the name of an argument of the model, or an argument is invalid.
    """
    _check_numbers(n, k, bins)
    check_seed(seed)
    module_of(model, "models.base").check_model(model)
    args, sites = _simulation(model, data, n, seed)
    settings = {"batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
    pair = pair_of(model, args, seed=next_seed(seed), **settings)
    truth, rng = pair.latents_of(sites), np.random.default_rng(seed)
    parts = pair.guide(k, lambda draws: _ranks(draws, truth, rng))
    ranks = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Calibration(ranks, k, bins)


def _check_numbers(n: int, k: int, bins: int) -> None:
    """Check the numbers of simulations, draws and bins for which the test is valid."""
    check_whole("bins", bins, 2)
    check_whole("k", k, 1)
    if (k + 1) % bins:
        raise ValueError(
            f"k + 1 should be a multiple of bins ({bins}), so that each has as many ranks, was "
            f"{k + 1}"
        )
    check_whole("n", n, 5 * bins)  # for the chi-square distribution of the statistic


def _ranks(draws: GuideDraws, truth: Arrays, rng: np.random.Generator) -> Arrays:
    """Return the number of draws below the true values, (N, units), with ties broken at random."""
    ranks = {}
    for name, value in draws.values.items():
        units = flat(value)
        true = flat(truth[name][None, draws.rows])
        below, equal = (units < true).sum(0), (units == true).sum(0)
        ranks[name] = below + rng.integers(0, equal + 1)
    return ranks


def _simulation(
    model: Any, data: Any, n: int, seed: int
) -> tuple[tuple[Array, ...], Mapping[str, Any]]:
    """Return simulated arguments of `model.model`, n rows, and the values of all sites."""
    if data is None:
        given = list(model.blank(n))
    else:
        arrays = sample_once(as_tuple(data), seed)
        rows = np.random.default_rng(seed).integers(0, check_lengths(*arrays), n)
        model.check(*arrays)
        given = [array[rows] for array in arrays]
    backend = module_of(model, "inference.evaluation.trained_pair")
    sites: Mapping[str, Any] = backend.simulate(model, given, seed)
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
    """Return Holm's adjusted p-values: the i-th smallest of m times m - i + 1, made increasing."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted
