"""What the KL term of the bound consists of."""

from dataclasses import dataclass

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pair import (
    Array,
    Arrays,
    JointDraws,
    Pair,
    chunk,
    flat,
    log_mean_exp,
)
from ppl_vae.shared.evaluation.sites import check_several

SAME_PRIOR = 1e-4
ROWS = 1000


class ConditionalPrior(ValueError):
    """The prior depends on the datum, and there is no marginal KL divergence."""


@dataclass(frozen=True, eq=False)
class ElboSurgery:
    """The KL term of the bound in two parts, each an estimate of n values, in nats.

    Attributes:
        kl: KL(q(z | x_n) || p(z)) of each datum, whose mean is the KL term.
        mutual_information: E log q(z | x_n) / q(z), whose mean is I(x; z).
    """

    kl: Estimate
    mutual_information: Estimate

    @property
    def marginal_kl(self) -> Estimate:
        """kl less mutual_information, whose mean is KL(q(z) || p(z))."""
        values = self.kl.values - self.mutual_information.values
        # Both are of the same draws, so that no error of a datum's difference is known.
        return Estimate(values, np.full_like(values, np.nan))

    @property
    def log_n(self) -> float:
        """What the mutual information cannot exceed: the log of the number of data."""
        return float(np.log(len(self.kl)))

    def __str__(self) -> str:
        return (
            f"KL(q(z | x) || p(z)): {self.kl}\n"
            f"mutual information:   {self.mutual_information}, at most log n = {self.log_n:.2f}\n"
            f"KL(q(z) || p(z)):     {self.marginal_kl}"
        )


def elbo_surgery(pair: Pair, k: int) -> ElboSurgery:
    """See `ppl_vae.inference.evaluation.diagnostics.elbo_surgery`."""
    check_whole("k", k, 1)
    check_several(pair.n)
    batches = pair.joint(k, _parts)
    names = list(batches[0][0])
    values = {name: np.concatenate([b[0][name] for b in batches], axis=1) for name in names}
    log_q, log_p = (np.concatenate([b[i] for b in batches], axis=1) for i in (1, 2))
    kl = np.concatenate([b[3] for b in batches], axis=1)
    _check_one_prior(pair, {name: value[0] for name, value in values.items()}, log_p[0])
    rows = {name: value.reshape(-1, *value.shape[2:]) for name, value in values.items()}
    log_mixture = _log_mixture(pair, rows).reshape(log_q.shape)
    return ElboSurgery(Estimate.of_draws(kl), Estimate.of_draws(log_q - log_mixture))


def _parts(draws: JointDraws) -> tuple[Arrays, Array, Array, Array]:
    """The draws, log q and log p of all their sites together and their KL term, (K, N)."""
    log_q, log_p = (
        np.sum([term.astype(np.float64) for term in terms.values()], axis=0)
        for terms in (draws.log_q, draws.log_p)
    )
    terms = (*draws.kl.values(), *draws.log_ratio.values())
    kl = np.sum([flat(term.astype(np.float64)).sum(-1) for term in terms], axis=0)
    return draws.values, log_q, log_p, kl


def _log_mixture(pair: Pair, rows: Arrays) -> Array:
    """log 1/n sum_j q(z_i | x_j) of each row z_i."""
    count = len(next(iter(rows.values())))
    size = min(chunk(pair.batch_size), ROWS)
    found = []
    for start in range(0, count, size):
        some = {name: value[start : start + size] for name, value in rows.items()}
        found.append(log_mean_exp(pair.log_guide(some).astype(np.float64), 1))
    return np.concatenate(found)


def _check_one_prior(pair: Pair, values: Arrays, log_p: Array) -> None:
    """p(z) is the same for all data: it is not changed by another datum in the place of one's."""
    other = pair.log_prior(values, 1)
    if not np.allclose(other, log_p, rtol=SAME_PRIOR, atol=SAME_PRIOR):
        raise ConditionalPrior(
            "model should have one prior p(z) for all data, but it depends on the datum (a "
            "condition): the mixture of q(z | x) over data has no prior to be compared with; use "
            "kl_per_site"
        )
