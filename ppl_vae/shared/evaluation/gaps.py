"""Inference gaps: the looseness of the ELBO by the guide's family and by amortisation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, module_of, pair_of
from ppl_vae.shared.evaluation.estimates import Estimate, bounds
from ppl_vae.shared.evaluation.likelihood import annealing_of
from ppl_vae.shared.evaluation.local_fit import FAMILIES, TOLERANCE, LocalFit, check_families

Family: TypeAlias = Literal["gaussian", "full", "flow"]


@dataclass(frozen=True, eq=False)
class Gaps:
    """The gaps between log p(x) and the ELBO of a guide, in nats.

    Errors of differences are those of independent draws. Where log 1/k sum_i w_i and
    1/k sum_i log w_i share their draws, this is an upper bound: both are increasing functions of
    the weights, so their covariance is not negative.

    Attributes:
        log_likelihood: log p(x), the best of the estimates.
        elbo: L[q], the ELBO of the guide.
        local: L[q*] by family, the ELBO of posteriors fitted to each datum.
    """

    log_likelihood: Estimate
    elbo: Estimate
    local: Mapping[str, Estimate]

    @property
    def approximation(self) -> dict[str, Estimate]:
        """log p(x) - L[q*] by family: the loss by the choice of the family."""
        return {name: self.log_likelihood - bound for name, bound in self.local.items()}

    @property
    def amortisation(self) -> dict[str, Estimate]:
        """L[q*] - L[q] by family: the loss by one guide for all data."""
        return {name: bound - self.elbo for name, bound in self.local.items()}

    @property
    def total(self) -> Estimate:
        """log p(x) - L[q], the sum of both gaps."""
        return self.log_likelihood - self.elbo

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """Each measure, its value and its share of the gap, from log p(x) down to L[q]."""
        lines = [("log p(x)", str(self.log_likelihood), "")]
        for name in sorted(self.local, key=FAMILIES.index, reverse=True):
            lines.append((f"L[q*], {name}", str(self.local[name]), ""))
        lines += [("L[q], the guide", str(self.elbo), ""), ("gap", str(self.total), "")]
        for name in self.local:
            parts = {"approximation": self.approximation, "amortisation": self.amortisation}
            for part, gaps in parts.items():
                share = self._share(gaps[name])
                lines.append((f"{part} gap, {name}", str(gaps[name]), share))
        return lines

    def __str__(self) -> str:
        rows = [("measure", "value", "share of the gap"), *self.lines]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)

    def _share(self, part: Estimate) -> str:
        gap = self.total
        noise = 3 * gap.monte_carlo_error + TOLERANCE
        return f"{part.mean / gap.mean:.0%}" if gap.mean > noise else "no gap beyond the noise"


def gaps(
    model: AnyModel,
    data: Any,
    families: Sequence[Family] = ("gaussian", "flow"),
    *,
    k: int = 5000,
    method: Literal["iw", "ais", "both"] = "iw",
    steps: int = 5000,
    lr: float = 0.01,
    draws: int = 10,
    patience: int = 10,
    batch_size: int = 100,
    particles: int = 50,
    chains: int | None = None,
    temperatures: int | None = None,
    leapfrog_steps: int | None = None,
    adaptation: int | None = None,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Gaps:
    """Split the gap between log p(x) and the ELBO into approximation and amortisation gaps.

        log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]),    q* = argmax over the family L[q]
                          approximation gap    amortisation gap

    L[q] = E_q[log p(x, z) - log q(z | x)] for each datum, in nats. q* has its own parameters for
    each datum and is fitted by Adam, from the moments of the guide's draws. It is a distribution of
    all latents of a datum jointly, in unconstrained space (`biject_to`), from a family:

    - "gaussian": independent entries, N(m, diag s^2);
    - "full": N(m, S) with any covariance;
    - "flow": "gaussian" followed by coupling layers (real NVP).

    The last two start at the q* of "gaussian", if it is requested. The gap of a guide is split
    with respect to its own family; the amortisation gap of a smaller family can be negative.

    log p(x) is the highest of these estimates for each datum, each of which is too low on average:
    method "iw", importance sampling by the guide and by each q*; "ais", annealed importance
    sampling; "both". Estimates are compared after subtracting three standard errors, because the
    maximum of noisy estimates is biased upwards. An estimate of a single chain has no standard
    error and is the last choice.

    References:
        Cremer, Li & Duvenaud, "Inference suboptimality in variational autoencoders", ICML 2018,
        arXiv:1801.03558, sections 3 and 4, appendix.

    Differs from the paper:
        Importance sampling also by q*, and standard errors in the comparison. Path-derivative
        gradients (Roeder et al. 2017). The learning rate is halved after a block of 100 steps that
        does not improve the mean over a batch by 1e-4 nats, and fitting stops after `patience` such
        blocks (the paper: one learning rate, and 10 blocks in a row, for each datum). The flow has
        no auxiliary variables.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode. Its parameters
            do not change.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        families: Families of q*.
        k: Number of draws from the guide and from each q* for its ELBO and for "iw", at least 2.
        method: "iw", "ais" or "both".
        steps: Largest number of Adam steps for q*.
        lr: Initial learning rate.
        draws: Number of draws from each q* per step.
        patience: Number of blocks without improvement after which fitting stops.
        batch_size: Batch size; limits peak memory.
        particles: Number of draws per datum that are evaluated at once; limits peak memory.
        chains: Number of chains of "ais" and "both", which also use the next three arguments; see
            `log_likelihood`.
        temperatures: Number of temperatures.
        leapfrog_steps: Number of leapfrog steps of a move.
        adaptation: Number of temperatures of the run that adapts the step sizes.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: a latent site is discrete and not enumerated by the model alone, has a mask,
            lies outside the data plate, or is not drawn by the guide; there is none; "flow" is
            requested for a single latent number; or an argument is invalid, or unused by the
            method.
    """
    names = check_families(families, method)
    check_whole("k", k, 2)
    check_whole("particles", particles, 1)
    effort = LocalFit(steps, lr, draws, patience)
    annealing = annealing_of(
        method,
        ("ais", "both"),
        chains=chains,
        temperatures=temperatures,
        leapfrog_steps=leapfrog_steps,
        adaptation=adaptation,
    )
    settings: dict[str, int] = {
        "batch_size": batch_size,
        "seed": seed,
        "max_plate_nesting": max_plate_nesting,
    }
    pair = pair_of(model, data, **settings)
    log_weights = module_of(model, "inference.evaluation.gaps").log_weights
    parts: dict[str, list[tuple[Estimate, Estimate]]] = {name: [] for name in ("guide", *names)}
    with pair.evaluating():
        for log_w in log_weights(pair, names, k, effort, particles):
            for name, both in parts.items():
                both.append(bounds(log_w[name]))
    joined = {n: [Estimate.join(p) for p in zip(*part, strict=True)] for n, part in parts.items()}
    estimates = [estimate for _, estimate in joined.values()] if method != "ais" else []
    if annealing is not None:
        settings |= asdict(annealing)
        log_likelihood = module_of(model, "inference.evaluation.log_likelihood").log_likelihood
        estimates.append(log_likelihood(model, pair.arrays, method="ais", **settings))
    local = {name: joined[name][0] for name in names}
    return Gaps(highest(estimates), joined["guide"][0], local)


def highest(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of each datum that is highest after subtracting 3 standard errors.

    The highest value would often be the one with the largest error.
    """
    values, errors = (np.stack([getattr(e, n) for e in estimates]) for n in ("values", "errors"))
    with np.errstate(invalid="ignore"):
        lower = values - 3 * errors
    best = np.argmax(np.where(np.isnan(lower), -np.inf, lower), 0)[None]
    return Estimate(*(np.take_along_axis(part, best, 0)[0] for part in (values, errors)))
