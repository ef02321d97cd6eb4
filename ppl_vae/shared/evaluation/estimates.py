"""Monte Carlo estimates with their standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ppl_vae.shared.checks import as_numpy


@dataclass(frozen=True, eq=False)
class Estimate:
    """A Monte Carlo estimate for each datum, in nats.

    Its string is mean ± standard error over the data: "-86.64 ± 0.79 (1000 data)". A slice is the
    estimate of these data. The difference of two estimates of the same data is the estimate of the
    paired differences, whose standard error is that of the mean difference, mostly far below those
    of the two means.

    Attributes:
        values: The estimates, shape (n,).
        errors: The Monte Carlo standard error of each value, shape (n,); NaN where unknown. It does
            not include the spread of the data, see `standard_error`.

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
        """Return the mean of each datum over k draws, (k, n); for k = 1 errors are NaN."""
        drawn = as_numpy(terms).astype(float)
        k = len(drawn)
        with np.errstate(invalid="ignore"):  # infinite terms
            errors = drawn.std(0, ddof=1) / k**0.5 if k > 1 else np.full_like(drawn[0], np.nan)
        return cls(drawn.mean(0), errors)

    @classmethod
    def of_weights(cls, log_sums: tuple[Any, Any], k: int) -> Self:
        """Return log 1/k sum_i w_i of each datum, with its standard error by the delta method.

            error^2 = Var(m) / m^2 = (k sum_i w_i^2 / (sum_i w_i)^2 - 1) / (k - 1)

        with m = 1/k sum_i w_i.

        Args:
            log_sums: log sum_i w_i and log sum_i w_i^2, of shape (n,), on any device.
            k: Number of weights of each datum; if it is 1, errors are NaN.
        """
        log_sum, squares = (as_numpy(value).astype(float) for value in log_sums)
        if k == 1:
            return cls(log_sum, np.full_like(log_sum, np.nan))
        # For large log weights rounding can move the difference beyond its bounds.
        excess = k * np.exp(np.clip(squares - 2 * log_sum, -np.log(k), 0)) - 1
        return cls(log_sum - np.log(k), np.sqrt(np.maximum(excess, 0) / (k - 1)))

    @classmethod
    def join(cls, parts: Sequence["Estimate"]) -> Self:
        """Concatenate the estimates of several batches of data."""
        values, errors = ([getattr(p, name) for p in parts] for name in ("values", "errors"))
        return cls(np.concatenate(values), np.concatenate(errors))

    @property
    def mean(self) -> float:
        """The mean over the data."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the population of the data; NaN for one datum.

        It includes the Monte Carlo errors, which are part of the spread of the values.
        """
        n = len(self)
        return float(self.values.std(ddof=1) / n**0.5) if n > 1 else float("nan")

    @property
    def monte_carlo_error(self) -> float:
        """Monte Carlo standard error of the mean over these data.

        sqrt(sum_n error_n^2) / n, for independent errors. NaN if an error is.
        """
        return float(np.sqrt((self.errors**2).sum()) / len(self))

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Return paired differences, with the Monte Carlo errors of independent draws.

        Raises:
            ValueError: the numbers of data differ.
        """
        if not isinstance(other, Estimate):
            return NotImplemented
        if len(self) != len(other):
            raise ValueError(
                "both estimates of a difference should be of the same data, were of "
                f"{len(self)} and {len(other)}"
            )
        with np.errstate(invalid="ignore"):  # infinite values
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
        lower: Annealing from the prior: at most log p(x) on average.
        upper: Annealing back from the latents that generated x: at least log p(x) on average over
            x and the latents. All chains of a datum start at one point, so their spread does not
            estimate the error of the datum: `upper.errors` are NaN.
    """

    lower: Estimate
    upper: Estimate

    @classmethod
    def of_inverse(cls, forwards: Estimate, backwards: Estimate) -> Self:
        """Return the bounds from estimates of log p(x) and, by the reverse chains, log 1 / p(x)."""
        upper = Estimate(-backwards.values, np.full(len(backwards), np.nan))
        return cls(forwards, upper)

    @property
    def gap(self) -> Estimate:
        """upper - lower of each datum: at least the error of either bound on average."""
        return self.upper - self.lower

    def __str__(self) -> str:
        return f"lower {self.lower}, upper {self.upper}, gap {self.gap}"


def bounds(log_w: Any) -> tuple[Estimate, Estimate]:
    """Return the ELBO and the estimate of log p(x) of each datum from log weights, (k, n)."""
    log_w = np.asarray(log_w, np.float64)
    largest = log_w.max(0)
    with np.errstate(invalid="ignore"):  # draws with density 0 under the model
        weights = np.exp(log_w - largest)
    sums = np.log(weights.sum(0)) + largest, np.log((weights**2).sum(0)) + 2 * largest
    return Estimate.of_draws(log_w), Estimate.of_weights(sums, len(log_w))
