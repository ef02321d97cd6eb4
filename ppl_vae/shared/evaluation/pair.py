"""What measurements ask of a trained pair and its data; each backend has its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ppl_vae.shared.checks import as_numpy

Array: TypeAlias = np.ndarray
Arrays: TypeAlias = dict[str, np.ndarray]
Found: TypeAlias = dict[str, dict[str, Any]]
T = TypeVar("T")

TOGETHER = 10_000
"""So many pairs of a datum and a draw are looked at together."""


@dataclass(frozen=True)
class GuideDraws:
    """K draws from the guide for N data, by the names of the latent sites.

    Attributes:
        rows: Which of all data these are.
        values: The draws, (K, N, *units).
        means: E q(z | what was drawn before, x), (K, N, *units, 1); of classes their probabilities,
            (K, N, *units, C). The draws themselves where a distribution has no mean.
    """

    rows: slice
    values: Arrays
    means: Arrays


@dataclass(frozen=True)
class JointDraws(GuideDraws):
    """The same with what the model says of them.

    Attributes:
        log_q: log q of each latent site, (K, N).
        log_p: log p of each latent site, (K, N).
        kl: KL(q || p) of units in closed form given what was drawn before, (K, N, *units).
        log_ratio: log q - log p of units where there is no such form, (K, N, *units).
        observed: The values of observed sites, (N, ...).
        log_likelihood: log p of each observed site, (K, N).
        replicates: Draws of the observed sites given the latents, (K, N, ...), if asked for.
    """

    log_q: Arrays
    log_p: Arrays
    kl: Arrays
    log_ratio: Arrays
    observed: Arrays
    log_likelihood: Arrays
    replicates: Arrays


class Pair(ABC):
    """A model, its guide and n data, run batch by batch in evaluation mode.

    A backend defines what is run for one batch; the methods without an underscore are for both.
    Sites that the guide marks for enumeration are drawn like others, so that all it says are draws.
    Sites that the model alone enumerates are summed out of the weights.

    Attributes:
        n: Number of data.
        batch_size: Data that are looked at together.
    """

    n: int
    batch_size: int

    def guide(self, k: int, measure: Callable[[GuideDraws], T]) -> list[T]:
        """`measure` of k draws for each batch of data, the guide run alone."""
        return self._each(k, self._guide, lambda rows, found: measure(GuideDraws(rows, **found)))

    def joint(
        self, k: int, measure: Callable[[JointDraws], T], *, replicate: bool = False
    ) -> list[T]:
        """`measure` of k draws for each batch of data, model and guide run."""

        def measured(rows: slice, found: dict[str, Arrays]) -> T:
            found["observed"] = {name: value[0] for name, value in found["observed"].items()}
            return measure(JointDraws(rows, **found))

        def run(rows: slice, k: int, number: int) -> Found:
            return self._joint(rows, k, number, replicate)

        return self._each(k, run, measured)

    def log_weights(self, k: int) -> Array:
        """log p(x, z) - log q(z | x) of k draws for each datum, (k, n)."""
        parts = self._each(k, self._log_weights, lambda _, found: found["log_w"]["all"])
        return np.concatenate(parts, axis=1)

    def prior(self, k: int) -> Arrays:
        """k draws of every site of the model for each datum, which tells its conditions alone."""
        parts = self._each(k, self._prior, lambda _, found: found["prior"])
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def log_guide(self, values: Arrays) -> Array:
        """log q(z_i | x_j) of given values (M, *units) and all data, (M, n)."""
        with self._looking():
            columns = [as_numpy(self._log_guide(rows, values)) for rows in self._rows()]
        return np.concatenate(columns, axis=1)

    def log_prior(self, values: Arrays, shift: int) -> Array:
        """log p of values (n, *units), the i-th in the place of what datum i + shift has, (n,)."""
        with self._looking():
            parts = [
                as_numpy(self._log_prior(rows, {n: v[rows] for n, v in values.items()}, shift))[0]
                for rows in self._rows()
            ]
        return np.concatenate(parts)

    @abstractmethod
    def latents_of(self, sites: Mapping[str, Any]) -> Arrays:
        """What the guide draws, of a simulation whose observed sites are the pair's data: (n, ...).

        Raises:
            ValueError: an observed site is no argument of the model.
        """

    @abstractmethod
    def _looking(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _guide(self, rows: slice, k: int, number: int) -> Found: ...

    @abstractmethod
    def _joint(self, rows: slice, k: int, number: int, replicate: bool) -> Found: ...

    @abstractmethod
    def _log_weights(self, rows: slice, k: int, number: int) -> Found: ...

    @abstractmethod
    def _prior(self, rows: slice, k: int, number: int) -> Found: ...

    @abstractmethod
    def _log_guide(self, rows: slice, values: Arrays) -> Any: ...

    @abstractmethod
    def _log_prior(self, rows: slice, values: Arrays, shift: int) -> Any: ...

    def _rows(self) -> list[slice]:
        starts = range(0, self.n, self.batch_size)
        return [slice(start, min(start + self.batch_size, self.n)) for start in starts]

    def _each(
        self,
        k: int,
        run: Callable[[slice, int, int], Found],
        measured: Callable[[slice, dict[str, Arrays]], T],
    ) -> list[T]:
        """What is measured of k draws for each batch, which are made in groups."""
        results, size, number = [], chunk(self.batch_size), 0
        with self._looking():
            for rows in self._rows():
                groups = []
                for start in range(0, k, size):
                    found = run(rows, min(size, k - start), number)
                    groups.append(
                        {
                            what: {name: as_numpy(value) for name, value in sorted(values.items())}
                            for what, values in found.items()
                        }
                    )
                    number += 1
                results.append(measured(rows, joined(groups)))
        return results


def chunk(batch_size: int) -> int:
    """How many draws for each datum of a batch are looked at together."""
    return max(1, TOGETHER // batch_size)


def flat(units: Array) -> Array:
    """(K, N, units) of (K, N, ...)."""
    return units.reshape(*units.shape[:2], -1)


def log_mean_exp(values: Array, axis: int) -> Array:
    """log of the mean of exp over a dimension, without overflow."""
    most = values.max(axis, keepdims=True)
    mean = np.log(np.exp(values - most).mean(axis))
    return np.asarray(mean + most.squeeze(axis))


def joined(groups: Sequence[dict[str, Arrays]]) -> dict[str, Arrays]:
    """Arrays of several groups of draws, dimension 0, as those of all draws."""
    return {
        what: {name: np.concatenate([group[what][name] for group in groups]) for name in values}
        for what, values in groups[0].items()
    }
