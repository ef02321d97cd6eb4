"""Which latent units a trained pair uses."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ppl_vae.shared.checks import check_positive, check_whole
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pair import Array, Arrays, GuideDraws, JointDraws, Pair, flat
from ppl_vae.shared.evaluation.sites import check_several


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """How much the posterior mean of each latent unit varies between data.

    Attributes:
        variances: A_u of each unit by its site, (units,).
        errors: Their standard errors over the data, of the same shape.
        threshold: What A_u has to exceed.
    """

    variances: Mapping[str, Array]
    errors: Mapping[str, Array]
    threshold: float

    @property
    def active(self) -> dict[str, Array]:
        """Which units are active, (units,) by their site."""
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


def active_units(pair: Pair, threshold: float, k: int) -> ActiveUnits:
    """See `ppl_vae.inference.evaluation.diagnostics.active_units`."""
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
    return ActiveUnits(variances, errors, threshold)


def _halves(draws: GuideDraws, half: int) -> dict[str, tuple[Array, Array]]:
    """Posterior means by the first and by the second half of the draws, (N, units, classes)."""
    found = {}
    for name, mean in draws.means.items():
        units = mean.reshape(*mean.shape[:2], -1, mean.shape[-1]).astype(np.float64)
        found[name] = units[:half].mean(0), units[half:].mean(0)
    return found


@dataclass(frozen=True, eq=False)
class PosteriorCollapse:
    """The KL divergence of guide and prior for each latent unit, and which units have none.

    Attributes:
        sites: That of each site, all its units together.
        kl: Mean over the data, in nats, (units,) by site.
        errors: Standard errors of it over the data.
        shares: The share of the data for which it is below epsilon; NaN where it has no closed form
            and so is not known for a datum.
        active: The active units, for comparison.
        epsilon: KL divergence that counts as none.
        delta: Share of the data that may have more.
    """

    sites: Mapping[str, Estimate]
    kl: Mapping[str, Array]
    errors: Mapping[str, Array]
    shares: Mapping[str, Array]
    active: ActiveUnits
    epsilon: float
    delta: float

    @property
    def collapsed(self) -> dict[str, Array]:
        """Which units are (epsilon, delta)-collapsed, by site; False where that is not known."""
        return {name: share >= 1 - self.delta for name, share in self.shares.items()}

    @property
    def known(self) -> dict[str, bool]:
        """Whether the divergence of each datum is known, by site."""
        return {name: not np.isnan(share).any() for name, share in self.shares.items()}

    @property
    def fraction(self) -> float:
        """The fraction of units that are collapsed, of the sites where that is known, or NaN."""
        known = [c for name, c in self.collapsed.items() if self.known[name]]
        return float(np.concatenate(known).mean()) if known else float("nan")

    def __str__(self) -> str:
        head = f"{'site':<8}{'unit':>5}{'KL':>10}{'s.e.':>9}{'KL < epsilon':>14}{'variance':>10}"
        lines = [f"{head}   (epsilon {self.epsilon:g}, delta {self.delta:g})"]
        for name, kl in self.kl.items():
            for unit in range(len(kl)):
                lines.append(self._line(name, unit))
        return "\n".join(lines)

    def _line(self, name: str, unit: int) -> str:
        share = self.shares[name][unit]
        one = len(self.kl[name]) == 1
        variance = self.active.variances[name]
        words = [] if not self.collapsed[name][unit] else ["collapsed"]
        if len(variance) == len(self.kl[name]):
            found = f"{variance[unit]:>10.3g}"
            words.append("active" if self.active.active[name][unit] else "not active")
        else:
            found = f"{'-':>10}"
        below = f"{'-':>14}" if np.isnan(share) else f"{share:>14.1%}"
        label = "all" if one and len(variance) > 1 else str(unit)
        numbers = f"{self.kl[name][unit]:>10.4f}{self.errors[name][unit]:>9.4f}"
        return f"{name:<8}{label:>5}{numbers}{below}{found}   {', '.join(words)}"


def posterior_collapse(
    pair: Pair, epsilon: float, delta: float, k: int, threshold: float
) -> PosteriorCollapse:
    """See `ppl_vae.inference.evaluation.diagnostics.posterior_collapse`."""
    check_positive("epsilon", epsilon)
    if not (isinstance(delta, float | int | np.number) and 0 <= delta < 1):
        raise ValueError(f"delta should lie in [0, 1), was {delta!r}")
    active = active_units(pair, threshold, k)
    parts = pair.joint(k, _per_datum)
    sites, kl, errors, shares = {}, {}, {}, {}
    for name in parts[0][0]:
        per_datum = np.concatenate([terms[name] for terms, _ in parts])
        sites[name] = Estimate(per_datum.sum(1), np.full(pair.n, np.nan))
        kl[name] = per_datum.mean(0)
        errors[name] = per_datum.std(0, ddof=1) / pair.n**0.5
        below = (per_datum < epsilon).mean(0)
        closed = parts[0][1][name]
        shares[name] = below if closed else np.full_like(below, np.nan)
    return PosteriorCollapse(sites, kl, errors, shares, active, epsilon, delta)


def _per_datum(draws: JointDraws) -> tuple[Arrays, dict[str, bool]]:
    """The divergences of units for each datum, (N, units), and whether they are closed forms."""
    terms = {name: {**draws.kl, **draws.log_ratio}[name] for name in draws.values}
    means = {name: flat(value.astype(np.float64)).mean(0) for name, value in terms.items()}
    return means, {name: name in draws.kl for name in terms}
