"""Where a bound loses: by the family of its posterior, or by one guide for all data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ppl_vae.shared.checks import check_choice, check_positive, check_whole
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pair import Array

FAMILIES = ("gaussian", "full", "flow")
METHODS = ("iw", "ais", "both")
INITIAL = 100
"""Draws of the guide for the mean and scale that q* of a datum begins with."""
BLOCK = 100
"""Steps whose bounds are averaged, to see whether they still become better."""
TOLERANCE = 1e-4
"""By so many nats for each datum a block has to be better."""
LAYERS, HIDDEN, MOST = 4, 32, 2.0
"""Of a flow: its layers, the hidden units of a layer, and the largest log scale of a layer."""


@dataclass(frozen=True)
class LocalFit:
    """The effort for the posteriors of single data.

    Args:
        steps: Steps of Adam at most.
        lr: Its learning rate at first; it is halved after a block that has not improved.
        draws: Draws of each q* for a step.
        patience: Number of such blocks after which it ends.
    """

    steps: int
    lr: float
    draws: int
    patience: int

    def __post_init__(self) -> None:
        for name in ("steps", "draws", "patience"):
            check_whole(name, getattr(self, name), 1)
        check_positive("lr", self.lr)

    @property
    def blocks(self) -> list[int]:
        """The steps of each block."""
        whole, rest = divmod(self.steps, BLOCK)
        return [BLOCK] * whole + [rest] * (rest > 0)


@dataclass(frozen=True, eq=False)
class Gaps:
    """The gaps between log p(x) and the bound of a guide, in nats.

    Errors of differences are those of independent draws. Where log 1/k sum_i w_i and
    1/k sum_i log w_i are of the same draws, that of their difference is at most so large: both are
    increasing functions of the weights, so that their covariance is not below 0.

    Attributes:
        log_likelihood: log p(x), the best of the estimates.
        elbo: L[q], the bound with the guide.
        local: L[q*] by family, the bound with a posterior for each datum.
    """

    log_likelihood: Estimate
    elbo: Estimate
    local: Mapping[str, Estimate]

    @property
    def approximation(self) -> dict[str, Estimate]:
        """log p(x) - L[q*] by family: what the best q of the family cannot reach."""
        return {name: self.log_likelihood - bound for name, bound in self.local.items()}

    @property
    def amortisation(self) -> dict[str, Estimate]:
        """L[q*] - L[q] by family: what the guide loses as one function for all data."""
        return {name: bound - self.elbo for name, bound in self.local.items()}

    @property
    def total(self) -> Estimate:
        """log p(x) - L[q], the sum of the two."""
        return self.log_likelihood - self.elbo

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """What was measured, its value, and its share of the gap, from log p(x) down to L[q]."""
        lines = [("log p(x)", str(self.log_likelihood), "")]
        for name in sorted(self.local, key=FAMILIES.index, reverse=True):
            lines.append((f"L[q*], {name}", str(self.local[name]), ""))
        lines += [("L[q], the guide", str(self.elbo), ""), ("gap", str(self.total), "")]
        for name in self.local:
            parts = {"approximation": self.approximation, "amortisation": self.amortisation}
            for part, found in parts.items():
                share = self._share(found[name])
                lines.append((f"{part} gap, {name}", str(found[name]), share))
        return lines

    def __str__(self) -> str:
        rows = [("measure", "value", "share of the gap"), *self.lines]
        wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
        return "\n".join(f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c}".rstrip() for a, b, c in rows)

    def _share(self, part: Estimate) -> str:
        gap = self.total
        noise = 3 * gap.monte_carlo_error + TOLERANCE
        return f"{part.mean / gap.mean:.0%}" if gap.mean > noise else "no gap beyond the noise"


def bounds(log_w: Array) -> tuple[Estimate, Estimate]:
    """The bound and the estimate of log p(x) of each datum from log weights, (k, n)."""
    log_w = np.asarray(log_w, np.float64)
    most = log_w.max(0)
    with np.errstate(invalid="ignore"):  # of draws that the model has no room for
        weights = np.exp(log_w - most)
    sums = np.log(weights.sum(0)) + most, np.log((weights**2).sum(0)) + 2 * most
    return Estimate.of_draws(log_w), Estimate.of_weights(sums, len(log_w))


def highest(estimates: Sequence[Estimate]) -> Estimate:
    """For each datum the estimate that is the highest less three of its standard errors.

    The highest value alone would often be that of the largest error.
    """
    values, errors = (np.stack([getattr(e, n) for e in estimates]) for n in ("values", "errors"))
    with np.errstate(invalid="ignore"):
        surely = values - 3 * errors
    best = np.argmax(np.where(np.isnan(surely), -np.inf, surely), 0)[None]
    return Estimate(*(np.take_along_axis(part, best, 0)[0] for part in (values, errors)))


def check_families(families: Sequence[str], method: str) -> tuple[str, ...]:
    """The families in the order in which they are fitted."""
    check_choice("method", method, METHODS)
    if isinstance(families, str) or not isinstance(families, Sequence) or not families:
        raise ValueError(f"families should be some of {FAMILIES}, was {families!r}")
    for family in families:
        check_choice("each of families", family, FAMILIES)
    return tuple(name for name in FAMILIES if name in families)


def check_guide(drawn: Mapping[str, bool], latents: Sequence[str]) -> None:
    """The guide draws the latents that q* are of, and nothing else.

    Args:
        drawn: The latent sites of the guide, and whether they are enumerated.
        latents: The sites that are drawn without constraints.
    """
    for name, enumerated in drawn.items():
        if enumerated:
            raise ValueError(
                f"site {name!r} should be enumerated by the model alone, so that bounds of the "
                "guide and of q* are of the same latents, was by the guide: use a guide without it"
            )
        if name not in latents:
            raise ValueError(
                f"site {name!r} of the guide should be a continuous latent of the model, was not"
            )


def check_dimension(dim: int, families: Sequence[str]) -> None:
    """A flow has something to couple."""
    if dim < 2 and "flow" in families:
        raise ValueError(
            "families should not hold 'flow' for a single latent number, which has none to be "
            "coupled with, held it: use families=('gaussian',)"
        )
