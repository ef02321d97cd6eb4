"""Trained model/guide pairs as measurements use them, in either backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ppl_vae.shared.checks import as_numpy, check_whole, sample_once

Array: TypeAlias = np.ndarray
Arrays: TypeAlias = dict[str, np.ndarray]
Quantities: TypeAlias = dict[str, dict[str, Any]]
"""Values by site, by the name of the quantity (a field of `GuideDraws` or `JointDraws`)."""
T = TypeVar("T")

MAX_DRAWS = 10_000
"""Largest number of (datum, draw) pairs that are evaluated at once."""


@dataclass(frozen=True)
class GuideDraws:
    """K draws from the guide for N data, by the names of the latent sites.

    Attributes:
        rows: Position of these data among all data.
        values: The draws, (K, N, *units).
        means: E q(z | sites drawn before, x), (K, N, *units, 1); for categorical sites the class
            probabilities, (K, N, *units, C). The draws where a distribution has no mean.
    """

    rows: slice
    values: Arrays
    means: Arrays


@dataclass(frozen=True)
class JointDraws(GuideDraws):
    """K draws from the guide for N data, with the densities under the model.

    Attributes:
        log_q: log q of each latent site, (K, N).
        log_p: log p of each latent site, (K, N).
        kl: KL(q || p) of units in closed form given the sites drawn before, (K, N, *units).
        log_ratio: log q - log p of units without a closed form, (K, N, *units).
        observed: The values of observed sites, (N, ...).
        log_likelihood: log p of each observed site, (K, N).
        replicates: Draws of the observed sites given the latents, (K, N, ...), if requested.
    """

    log_q: Arrays
    log_p: Arrays
    kl: Arrays
    log_ratio: Arrays
    observed: Arrays
    log_likelihood: Arrays
    replicates: Arrays


class Pair(ABC):
    """A model/guide pair and n data, checked and evaluated batch by batch in evaluation mode.

    A backend defines the computation for one batch. Sites that the guide marks for enumeration are
    drawn like others; sites that the model alone enumerates are summed out of the weights.

    Args:
        model: The model/guide pair.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.
        objective: An objective whose arguments the data are, if they are not the model's.

    Attributes:
        arrays: The data.
        n: Number of data.
        batch_size: Number of data per batch, at most n.

    Raises:
        ValueError: the data are not the model's, or an argument is invalid.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        batch_size: int = 100,
        seed: int = 0,
        max_plate_nesting: int = 1,
        objective: Any = None,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_whole("max_plate_nesting", max_plate_nesting, 1)
        self.arrays = tuple(sample_once(as_tuple(data), seed))
        if objective is None:
            model.check(*self.arrays)
        else:
            objective.check(model, *self.arrays)
        self.model, self.seed, self.nesting = model, seed, max_plate_nesting
        self.n = len(self.arrays[0])
        self.batch_size = min(batch_size, self.n)

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context with the pair in evaluation mode and the random state of the seed."""

    @abstractmethod
    def draws(self, rows: slice, k: int, number: int) -> Any:
        """Return the sites of guide and model for k draws; `number` counts the calls."""

    @abstractmethod
    def latents_of(self, sites: Mapping[str, Any]) -> Arrays:
        """Return the guide's latents (n, ...) in a simulation whose observations are the data.

        Raises:
            ValueError: an observed site is no argument of the model.
        """

    def rows(self) -> list[slice]:
        """Return the position of each batch among all data."""
        starts = range(0, self.n, self.batch_size)
        return [slice(start, min(start + self.batch_size, self.n)) for start in starts]

    def guide(self, k: int, measure: Callable[[GuideDraws], T]) -> list[T]:
        """Return `measure` of k draws for each batch of data, without running the model."""
        return self._per_batch(k, self._guide, lambda rows, all: measure(GuideDraws(rows, **all)))

    def joint(
        self, k: int, measure: Callable[[JointDraws], T], *, replicate: bool = False
    ) -> list[T]:
        """Return `measure` of k draws from the guide and their densities, for each batch."""

        def measured(rows: slice, quantities: dict[str, Arrays]) -> T:
            observed = {name: value[0] for name, value in quantities["observed"].items()}
            return measure(JointDraws(rows, **{**quantities, "observed": observed}))

        def run(rows: slice, k: int, number: int) -> Quantities:
            return self._joint(rows, k, number, replicate)

        return self._per_batch(k, run, measured)

    def log_weights(self, k: int) -> Array:
        """Return log p(x, z) - log q(z | x) of k draws for each datum, (k, n)."""
        parts = self._per_batch(k, self._log_weights, lambda _, all: all["log_w"]["all"])
        return np.concatenate(parts, axis=1)

    def prior(self, k: int) -> Arrays:
        """Return k draws of every site of the model given the conditions of each datum alone."""
        parts = self._per_batch(k, self._prior, lambda _, all: all["prior"])
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def log_guide(self, values: Arrays) -> Array:
        """Return log q(z_i | x_j) of given values (M, *units) and all data, (M, n)."""
        with self.evaluating():
            columns = [as_numpy(self._log_guide(rows, values)) for rows in self.rows()]
        return np.concatenate(columns, axis=1)

    def log_prior(self, values: Arrays, shift: int) -> Array:
        """Return log p of values (n, *units), the i-th at the conditions of datum i + shift."""
        with self.evaluating():
            parts = [
                as_numpy(self._log_prior(rows, {n: v[rows] for n, v in values.items()}, shift))[0]
                for rows in self.rows()
            ]
        return np.concatenate(parts)

    @abstractmethod
    def _guide(self, rows: slice, k: int, number: int) -> Quantities: ...

    @abstractmethod
    def _joint(self, rows: slice, k: int, number: int, replicate: bool) -> Quantities: ...

    @abstractmethod
    def _log_weights(self, rows: slice, k: int, number: int) -> Quantities: ...

    @abstractmethod
    def _prior(self, rows: slice, k: int, number: int) -> Quantities: ...

    @abstractmethod
    def _log_guide(self, rows: slice, values: Arrays) -> Any: ...

    @abstractmethod
    def _log_prior(self, rows: slice, values: Arrays, shift: int) -> Any: ...

    def _per_batch(
        self,
        k: int,
        run: Callable[[slice, int, int], Quantities],
        measured: Callable[[slice, dict[str, Arrays]], T],
    ) -> list[T]:
        """Return the measurement of k draws for each batch, which are computed in groups."""
        results, size, number = [], draws_at_once(self.batch_size), 0
        with self.evaluating():
            for rows in self.rows():
                groups = []
                for start in range(0, k, size):
                    groups.append(_as_arrays(run(rows, min(size, k - start), number)))
                    number += 1
                results.append(measured(rows, _concatenated(groups)))
        return results


def as_tuple(data: Any) -> tuple[Any, ...]:
    """Return `data` as a tuple of arguments; a single array is the only argument."""
    return tuple(data) if isinstance(data, tuple | list) else (data,)


def blank_or_given(model: Any, data: Any) -> Any:
    """Return `data`, or blank data of the model if it is a number of data."""
    if not isinstance(data, Integral):
        return data
    check_whole("data", data, 1)
    return tuple(model.blank(int(data)))


def draws_at_once(batch_size: int) -> int:
    """Return the number of draws per datum that are evaluated at once."""
    return max(1, MAX_DRAWS // batch_size)


def flat(units: Array) -> Array:
    """Return (K, N, ...) as (K, N, units)."""
    return units.reshape(*units.shape[:2], -1)


def log_mean_exp(values: Array, axis: int) -> Array:
    """Return log mean exp over a dimension, without overflow."""
    largest = values.max(axis, keepdims=True)
    mean = np.log(np.exp(values - largest).mean(axis))
    return np.asarray(mean + largest.squeeze(axis))


def _as_arrays(quantities: Quantities) -> dict[str, Arrays]:
    return {
        quantity: {name: as_numpy(value) for name, value in sorted(values.items())}
        for quantity, values in quantities.items()
    }


def _concatenated(groups: Sequence[dict[str, Arrays]]) -> dict[str, Arrays]:
    """Concatenate groups of draws along dimension 0."""
    return {
        quantity: {name: np.concatenate([g[quantity][name] for g in groups]) for name in values}
        for quantity, values in groups[0].items()
    }
