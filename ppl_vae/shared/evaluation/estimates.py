"""Estimates with their standard errors, for both backends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ppl_vae.shared.checks import as_numpy


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimated number of nats for each datum, by Monte Carlo.

    Its text is mean ± standard error over the data: "-86.64 ± 0.79 (1000 data)". A slice is an
    estimate of these data. The difference of two estimates of the same data is one of the paired
    differences, whose standard error is that of the mean difference, mostly far below those of the
    two means.

    Attributes:
        values: The estimates, shape (n,).
        errors: The standard error of each one as a Monte Carlo estimate, shape (n,); NaN where it
            cannot be told. It is small beside the spread of the data, see `standard_error`.

    Raises:
        ValueError: values and errors are not vectors of one length, or are empty.
    """

    values: np.ndarray
    errors: np.ndarray

    def __post_init__(self) -> None:
        shapes = self.values.shape, self.errors.shape
        if len(shapes[0]) != 1 or shapes[0] != shapes[1] or shapes[0] == (0,):
            raise ValueError(f"values and errors should have one shape (n,), had {shapes}")

    @classmethod
    def of_draws(cls, terms: Any) -> Self:
        """The mean of each datum over k draws, (k, n) on any device; NaN errors if k is 1."""
        drawn = as_numpy(terms).astype(float)
        k = len(drawn)
        with np.errstate(invalid="ignore"):  # of infinite terms
            errors = drawn.std(0, ddof=1) / k**0.5 if k > 1 else np.full_like(drawn[0], np.nan)
        return cls(drawn.mean(0), errors)

    @classmethod
    def of_weights(cls, log_sums: tuple[Any, Any], k: int) -> Self:
        """log 1/k sum_i w_i of each datum, and its standard error by the delta method.

            error^2 = Var(m) / m^2 = (k sum_i w_i^2 / (sum_i w_i)^2 - 1) / (k - 1)

        with m = 1/k sum_i w_i.

        Args:
            log_sums: log sum_i w_i and log sum_i w_i^2, of shape (n,), on any device.
            k: Number of weights of each datum; of one alone the error is NaN.
        """
        log_sum, squares = (as_numpy(value).astype(float) for value in log_sums)
        if k == 1:
            return cls(log_sum, np.full_like(log_sum, np.nan))
        # Of large log weights the difference is a rounding, which may lie beyond its bounds.
        excess = k * np.exp(np.clip(squares - 2 * log_sum, -np.log(k), 0)) - 1
        return cls(log_sum - np.log(k), np.sqrt(np.maximum(excess, 0) / (k - 1)))

    @classmethod
    def join(cls, parts: Sequence["Estimate"]) -> Self:
        """The estimates of several batches of data as one."""
        values, errors = ([getattr(p, name) for p in parts] for name in ("values", "errors"))
        return cls(np.concatenate(values), np.concatenate(errors))

    @property
    def mean(self) -> float:
        """The mean over the data."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean as that of all data these were drawn from; NaN for one datum.

        That the values are estimates is in it: their Monte Carlo errors are part of their spread.
        """
        n = len(self)
        return float(self.values.std(ddof=1) / n**0.5) if n > 1 else float("nan")

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of the mean as an estimate of that of these very data.

        sqrt(sum_n error_n^2) / n: errors of single data are independent. NaN where one is.
        """
        return float(np.sqrt((self.errors**2).sum()) / len(self))

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Paired differences, datum by datum; a Monte Carlo error is that of independent draws.

        Raises:
            ValueError: the two are not of the same number of data.
        """
        if not isinstance(other, Estimate):
            return NotImplemented
        if len(self) != len(other):
            raise ValueError(
                "both estimates of a difference should be of the same data, were of "
                f"{len(self)} and {len(other)}"
            )
        with np.errstate(invalid="ignore"):  # of two that are infinite
            values = self.values - other.values
        return Estimate(values, np.hypot(self.errors, other.errors))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice) -> Self:
        return type(self)(self.values[index], self.errors[index])

    def __str__(self) -> str:
        if len(self) == 1:
            return f"{self.mean:.2f} (1 datum)"
        return f"{self.mean:.2f} ± {self.standard_error:.2f} ({len(self)} data)"


@dataclass(frozen=True, eq=False)
class BDMC:
    """Two bounds on log p(x) of simulated data by bidirectional Monte Carlo, in nats.

    Attributes:
        lower: By annealing from the prior: on average at most log p(x).
        upper: By annealing back from the latents that x was simulated with: on average, over x and
            these, at least log p(x). All chains of a datum begin at one point, so that their spread
            does not tell the error of the datum: `upper.errors` are NaN.
    """

    lower: Estimate
    upper: Estimate

    @classmethod
    def of_inverse(cls, forwards: Estimate, backwards: Estimate) -> Self:
        """Of estimates of log p(x), and of log 1 / p(x) by chains that begin at one point."""
        upper = Estimate(-backwards.values, np.full(len(backwards), np.nan))
        return cls(forwards, upper)

    @property
    def gap(self) -> Estimate:
        """upper - lower of each datum: on average at least the error of either."""
        return self.upper - self.lower

    def __str__(self) -> str:
        return f"lower {self.lower}, upper {self.upper}, gap {self.gap}"
