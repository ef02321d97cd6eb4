"""Posterior collapse: latent units whose posterior equals the prior for all data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ppl_vae.shared.checks import check_positive
from ppl_vae.shared.evaluation.active_units import ActiveUnits
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pair import Array, Arrays, JointDraws, Pair, flat


@dataclass(frozen=True, eq=False)
class PosteriorCollapse:
    """The KL divergence of guide and prior for each latent unit, and which units collapsed.

    Attributes:
        sites: The divergence of each site, all its units together.
        kl: Mean over the data, in nats, (units,) by site.
        errors: Standard errors of `kl` over the data.
        shares: The share of the data with a divergence below epsilon; NaN where there is no closed
            form, and so no value for each datum.
        active: The active units, for comparison.
        epsilon: KL divergence that counts as none.
        delta: Share of the data that may have a larger divergence.
    """

    sites: Mapping[str, Estimate]
    kl: Mapping[str, Array]
    errors: Mapping[str, Array]
    shares: Mapping[str, Array]
    active: ActiveUnits
    epsilon: float
    delta: float

    @classmethod
    def of_pair(cls, pair: Pair, epsilon: float, delta: float, k: int, threshold: float) -> Self:
        """Measure a pair with k draws for each datum; see `posterior_collapse`."""
        check_positive("epsilon", epsilon)
        if not (isinstance(delta, float | int | np.number) and 0 <= delta < 1):
            raise ValueError(f"delta should lie in [0, 1), was {delta!r}")
        active = ActiveUnits.of_pair(pair, threshold, k)
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
        return cls(sites, kl, errors, shares, active, epsilon, delta)

    @property
    def collapsed(self) -> dict[str, Array]:
        """Whether each unit is (epsilon, delta)-collapsed, by site; False where unknown."""
        return {name: share >= 1 - self.delta for name, share in self.shares.items()}

    @property
    def known(self) -> dict[str, bool]:
        """Whether the divergence of each datum is known, by site."""
        return {name: not np.isnan(share).any() for name, share in self.shares.items()}

    @property
    def fraction(self) -> float:
        """The fraction of collapsed units among the sites where it is known, or NaN."""
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
        variances = self.active.variances[name]
        words = [] if not self.collapsed[name][unit] else ["collapsed"]
        if len(variances) == len(self.kl[name]):
            variance = f"{variances[unit]:>10.3g}"
            words.append("active" if self.active.active[name][unit] else "not active")
        else:
            variance = f"{'-':>10}"
        below = f"{'-':>14}" if np.isnan(share) else f"{share:>14.1%}"
        label = "all" if one and len(variances) > 1 else str(unit)
        numbers = f"{self.kl[name][unit]:>10.4f}{self.errors[name][unit]:>9.4f}"
        return f"{name:<8}{label:>5}{numbers}{below}{variance}   {', '.join(words)}"


def posterior_collapse(
    model: AnyModel,
    data: Any,
    *,
    epsilon: float = 0.01,
    delta: float = 0.01,
    k: int = 10,
    threshold: float = 0.01,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> PosteriorCollapse:
    """Return the latent units whose posterior equals the prior for all data.

        unit u is (epsilon, delta)-collapsed:  P_x(KL(q(z_u | x) || p(z_u)) < epsilon) >= 1 - delta

    The divergence of a unit is a closed form given the sites that the guide drew before, averaged
    over k draws. Without a closed form its mean over the data, E[log q - log p], is estimated from
    draws and can be negative; the divergence of each datum, and so whether a unit has collapsed, is
    then unknown. This applies to distributions without a closed form, and to a layer whose prior
    depends on a site that the guide draws later (z_1 of a bottom-up guide). A site with dependent
    units is measured as a whole. The result includes the active units, see `active_units`.

    References:
        Lucas, Tucker, Grosse & Norouzi, "Don't blame the ELBO! A linear VAE perspective on
        posterior collapse", NeurIPS 2019, arXiv:1911.02469, definition 1.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once. At least 2 data.
        epsilon: KL divergence, in nats, below which a unit is uninformative about a datum.
        delta: Largest share of data about which a collapsed unit is informative.
        k: Number of draws for each datum, even.
        threshold: Threshold of active units.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the model alone enumerates a site; or as `active_units`.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = pair_of(model, data, **settings)
    return PosteriorCollapse.of_pair(pair, epsilon, delta, k, threshold)


def _per_datum(draws: JointDraws) -> tuple[Arrays, dict[str, bool]]:
    """Return the divergence of each unit and datum, (N, units), and whether it is closed-form."""
    terms = {name: {**draws.kl, **draws.log_ratio}[name] for name in draws.values}
    means = {name: flat(value.astype(np.float64)).mean(0) for name, value in terms.items()}
    return means, {name: name in draws.kl for name in terms}
