"""A table of measurements of a trained pair, each with a verdict."""

from dataclasses import dataclass

import numpy as np

from ppl_vae.shared.evaluation.calibration import Calibration
from ppl_vae.shared.evaluation.elbo_surgery import ElboSurgery
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pareto_k import UNRELIABLE, ParetoK
from ppl_vae.shared.evaluation.posterior_collapse import PosteriorCollapse

GOOD = "good"
PRECISE = 0.1
"""Monte Carlo errors below this many nats are small."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The result of `diagnose`; its string is the table.

    Attributes:
        elbo: The evidence lower bound.
        log_likelihood: log p(x) by importance sampling.
        collapse: KL divergences, active units and collapsed units.
        surgery: The parts of the KL term; None if the prior depends on the datum.
        pareto_k: k-hat of each datum.
        calibration: Ranks of simulated latents.
    """

    elbo: Estimate
    log_likelihood: Estimate
    collapse: PosteriorCollapse
    surgery: ElboSurgery | None
    pareto_k: ParetoK
    calibration: Calibration

    @property
    def gap(self) -> Estimate:
        """log p(x) - ELBO, the KL(q(z | x) || p(z | x)) of each datum.

        Both use the same weights; its errors, those of independent draws, are upper bounds.
        """
        return self.log_likelihood - self.elbo

    @property
    def kl(self) -> float:
        """The KL term of the ELBO."""
        return sum(site.mean for site in self.collapse.sites.values())

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """Each measure, its value and the verdict: "good" or the problem."""
        return [
            ("ELBO", _text(self.elbo), self._elbo_verdict()),
            ("log p(x)", str(self.log_likelihood), self._log_likelihood_verdict()),
            ("log p(x) - ELBO", _text(self.gap), self._gap_verdict()),
            *self._sites_lines(),
            *self._surgery_lines(),
            ("k-hat", _short(self.pareto_k), self._pareto_k_verdict()),
            *self._calibration_lines(),
        ]

    def __str__(self) -> str:
        head = [("measure", "value", "verdict")]
        rows = head + self.lines
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows)

    def _elbo_verdict(self) -> str:
        if not np.isfinite(self.elbo.values).all():
            return "poor: q(z | x) has draws where p(x, z) is 0; another guide"
        error = self.elbo.monte_carlo_error
        return GOOD if error < PRECISE else f"poor: error {error:.2f} of the mean by draws; raise k"

    def _log_likelihood_verdict(self) -> str:
        error = float(np.median(self.log_likelihood.errors))
        if error < PRECISE:
            return GOOD
        return f"poor: error {error:.2f} of a datum (median); raise k, or method='ais'"

    def _gap_verdict(self) -> str:
        gap, limit = self.gap, max(1.0, 0.1 * self.kl)
        error = gap.monte_carlo_error
        if abs(gap.mean - limit) < 2 * error:
            return f"not known: error {error:.2g} by draws, so near the limit {limit:.2f}; raise k"
        if gap.mean <= limit:
            return GOOD
        return "poor: the guide is far from p(z | x); a larger encoder or a flow, see gaps"

    def _sites_lines(self) -> list[tuple[str, str, str]]:
        lines = []
        for name, kl in self.collapse.sites.items():
            used = GOOD if kl.mean >= 0.1 else "poor: the site tells nothing; Warmup or FreeBits"
            lines.append((f"KL of {name}", str(kl), used))
            active = self.collapse.active.active[name]
            few = f"poor: {int((~active).sum())} units are idle; fewer units, Warmup or FreeBits"
            value = f"{int(active.sum())} of {len(active)}"
            lines.append((f"active units of {name}", value, GOOD if active.mean() >= 0.5 else few))
            collapsed = self.collapse.collapsed[name]
            if self.collapse.known[name]:
                value = f"{int(collapsed.sum())} of {len(collapsed)}"
                many = "poor: most are their prior; Warmup or FreeBits"
                verdict = GOOD if collapsed.mean() <= 0.5 else many
                lines.append((f"collapsed units of {name}", value, verdict))
        return lines

    def _surgery_lines(self) -> list[tuple[str, str, str]]:
        names = "mutual information", "KL(q(z) || p(z))"
        if self.surgery is None:
            return [(name, "-", "none: the prior depends on a condition") for name in names]
        mutual, marginal = self.surgery.mutual_information, self.surgery.marginal_kl
        if mutual.mean > 0.9 * self.surgery.log_n:
            limit = f"at its limit log n = {self.surgery.log_n:.2f}"
            verdicts = (
                f"good: {limit}, may be more",
                "not known: the mutual information may be more",
            )
        else:
            low = "poor: the latents tell little of x; Warmup or FreeBits"
            far = "poor: samples from p(z) are not like q(z); a learned prior"
            verdicts = (
                GOOD if mutual.mean >= 0.5 * self.kl else low,
                GOOD if marginal.mean <= max(1.0, 0.1 * self.kl) else far,
            )
        values = str(mutual), str(marginal)
        return list(zip(names, values, verdicts, strict=True))

    def _pareto_k_verdict(self) -> str:
        if self.pareto_k.share <= 0.1:
            return GOOD
        return "poor: weights do not correct the guide; IWAE or DReG, or method='ais'"

    def _calibration_lines(self) -> list[tuple[str, str, str]]:
        lines = []
        for name, uneven in self.calibration.uneven().items():
            value = f"{len(uneven) - int(uneven.sum())} of {len(uneven)} units uniform"
            verdict = GOOD
            if uneven.any():
                spread = float(np.median(self.calibration.spread[name][uneven]))
                verdict = f"poor: the guide is {_shape(spread)} p(z | x) on simulated data"
            lines.append((f"ranks of {name}", value, verdict))
        return lines


def _text(estimate: Estimate) -> str:
    infinite = int((~np.isfinite(estimate.values)).sum())
    if infinite:
        return f"infinite for {infinite} of {len(estimate)} data"
    return str(estimate)


def _short(pareto_k: ParetoK) -> str:
    return f"above {UNRELIABLE:g} for {pareto_k.share:.1%} of the data"


def _shape(spread: float) -> str:
    if spread > 1.1:
        return "narrower than"
    return "wider than" if spread < 0.9 else "of another shape than"
