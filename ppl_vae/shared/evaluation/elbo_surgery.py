"""Decomposition of the KL term of the ELBO."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pair import (
    Array,
    Arrays,
    JointDraws,
    Pair,
    draws_at_once,
    flat,
    log_mean_exp,
)
from ppl_vae.shared.evaluation.sites import check_several

PRIOR_TOLERANCE = 1e-4
"""Largest difference of log p(z) at which two priors count as equal."""
MAX_ROWS = 1000
"""Largest number of draws whose mixture density is evaluated at once."""


class ConditionalPrior(ValueError):
    """The prior depends on the datum, so there is no marginal KL divergence."""


@dataclass(frozen=True, eq=False)
class ElboSurgery:
    """The KL term of the ELBO and its part of mutual information, n values each, in nats.

    Attributes:
        kl: KL(q(z | x_n) || p(z)) of each datum, whose mean is the KL term.
        mutual_information: E log q(z | x_n) / q(z), whose mean is I(x; z).
    """

    kl: Estimate
    mutual_information: Estimate

    @classmethod
    def of_pair(cls, pair: Pair, k: int) -> Self:
        """Measure a pair with k draws for each datum; see `elbo_surgery`."""
        check_whole("k", k, 1)
        check_several(pair.n)
        batches = pair.joint(k, _terms)
        names = list(batches[0][0])
        values = {name: np.concatenate([b[0][name] for b in batches], axis=1) for name in names}
        log_q, log_p, kl = (np.concatenate([b[i] for b in batches], axis=1) for i in (1, 2, 3))
        _check_one_prior(pair, {name: value[0] for name, value in values.items()}, log_p[0])
        rows = {name: value.reshape(-1, *value.shape[2:]) for name, value in values.items()}
        log_mixture = _log_mixture(pair, rows).reshape(log_q.shape)
        return cls(Estimate.of_draws(kl), Estimate.of_draws(log_q - log_mixture))

    @property
    def marginal_kl(self) -> Estimate:
        """kl - mutual_information, whose mean is KL(q(z) || p(z))."""
        values = self.kl.values - self.mutual_information.values
        # The terms share their draws, so the Monte Carlo error of a datum's difference is unknown.
        return Estimate(values, np.full_like(values, np.nan))

    @property
    def log_n(self) -> float:
        """The upper limit of the mutual information: the log of the number of data."""
        return float(np.log(len(self.kl)))

    def __str__(self) -> str:
        return (
            f"KL(q(z | x) || p(z)): {self.kl}\n"
            f"mutual information:   {self.mutual_information}, at most log n = {self.log_n:.2f}\n"
            f"KL(q(z) || p(z)):     {self.marginal_kl}"
        )


def elbo_surgery(
    model: AnyModel,
    data: Any,
    *,
    k: int = 1,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ElboSurgery:
    """Split the KL term of the ELBO into mutual information and the KL of the aggregate posterior.

        1/n sum_i KL(q(z | x_i) || p(z)) = I(x; z) + KL(q(z) || p(z))                     (1)
        I(x; z) = 1/n sum_i E_q(z | x_i) log q(z | x_i) / q(z),  q(z) = 1/n sum_j q(z | x_j)   (2)

    for all latent sites jointly; x_i stands for all observations of a datum, including its label.
    The mixture (2) is over all n data given, so only the expectation is estimated, from k draws for
    each datum; the cost is n^2 k densities. I(x; z) is at most log n (`log_n`). Near this limit the
    draws identify their datum among these data, more data would raise it, and it is a lower bound.
    The left side of (1) uses closed forms where they exist.

    References:
        Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence
        lower bound", NIPS 2016 workshop on advances in approximate Bayesian inference, section 3.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once. At least 2 data.
        k: Number of draws for each datum.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the prior depends on the datum (a conditional model), so that there is no
            aggregate posterior; or as `posterior_collapse`.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return ElboSurgery.of_pair(pair_of(model, data, **settings), k)


def _terms(draws: JointDraws) -> tuple[Arrays, Array, Array, Array]:
    """Return the draws, and log q, log p and the KL term of all sites together, (K, N)."""
    log_q, log_p = (
        np.sum([term.astype(np.float64) for term in terms.values()], axis=0)
        for terms in (draws.log_q, draws.log_p)
    )
    terms = (*draws.kl.values(), *draws.log_ratio.values())
    kl = np.sum([flat(term.astype(np.float64)).sum(-1) for term in terms], axis=0)
    return draws.values, log_q, log_p, kl


def _log_mixture(pair: Pair, rows: Arrays) -> Array:
    """Return log 1/n sum_j q(z_i | x_j) of each row z_i."""
    count = len(next(iter(rows.values())))
    size = min(draws_at_once(pair.batch_size), MAX_ROWS)
    parts = []
    for start in range(0, count, size):
        some = {name: value[start : start + size] for name, value in rows.items()}
        parts.append(log_mean_exp(pair.log_guide(some).astype(np.float64), 1))
    return np.concatenate(parts)


def _check_one_prior(pair: Pair, values: Arrays, log_p: Array) -> None:
    """Check that p(z) does not change when the conditions of each datum are another datum's."""
    other = pair.log_prior(values, 1)
    if not np.allclose(other, log_p, rtol=PRIOR_TOLERANCE, atol=PRIOR_TOLERANCE):
        raise ConditionalPrior(
            "model should have one prior p(z) for all data, but it depends on the datum (a "
            "condition): the mixture of q(z | x) over data has no prior to be compared with; use "
            "kl_per_site"
        )
