"""The thermodynamic variational objective."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from ppl_vae.inference.draws import Draws
from ppl_vae.inference.objectives.parts.log_weights import log_guide
from ppl_vae.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.checks import check_choice, check_whole
from ppl_vae.shared.objectives.partitions import edges_of

Bound: TypeAlias = Literal["lower", "upper"]


class TVO(PathObjective):
    """Thermodynamic variational objective, a Riemann sum between the ELBO and log p(x) or above it,
    for any latents.

        log p(x) = int_0^1 E_{pi_beta}[log w] dbeta

        pi_beta(z) ~ p(x, z)^beta q(z | x)^(1 - beta),   w = p(x, z) / q(z | x)
        lower:  sum_k (beta_{k+1} - beta_k) E_{pi_{beta_k}}[log w],   0 = beta_0 < ... < beta_P = 1
        upper:  the same sum of E_{pi_{beta_{k+1}}}[log w]

    The integrand increases with beta, so "lower" is below and "upper" above log p(x), and both get
    tighter with more partitions; with one, "lower" is the ELBO. Expectations use K draws of q with
    weights v_i ~ w_i^beta. Gradients do not use paths through the draws, so latents need not be
    reparametrised:

        d E[log w] = E[d log w] + Cov[d log pi_beta(z), log w]                              (1)
        log pi_beta = beta log p(x, z) + (1 - beta) log q(z | x) + const.

    As weights and values use the same draws, all estimates have a bias of order 1/K, except at
    beta = 0; on average they are below both bounds. The covariance is multiplied by K/(K - 1),
    which makes it unbiased at beta = 0.

    The loss is the negative lower bound, or the upper bound itself: the guide then minimises it,
    and the model gets no gradient; with one partition this is the wake phase of the guide in
    reweighted wake-sleep.

    References:
        Masrani, Le & Wood, "The thermodynamic variational objective", 2019, arXiv:1907.00031,
        sections 3 (bounds) and 4 ((1), and expectations by weights).

    Args:
        k: Number of particles K, at least 2.
        partitions: Number P of intervals, with log-spaced points from beta_1 = 10^-1.09 to 1, or
            the points 0 = beta_0 < ... < beta_P = 1.
        bound: "lower" or "upper".
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: An argument is invalid; (when used) as for `IWAE`.
    """

    def __init__(
        self,
        k: int,
        partitions: int | Sequence[float] = 2,
        bound: Bound = "lower",
        *,
        max_plate_nesting: int = 1,
    ) -> None:
        check_whole("k", k, 2)
        check_choice("bound", bound, get_args(Bound))
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.partitions, self.bound = edges_of(partitions), bound

    def value(self, log_w: Tensor) -> Tensor:
        _, width, share = self._tempered_weights(log_w)
        bound = (width * share * log_w).sum((0, 1))
        return bound if self.bound == "upper" else -bound

    def surrogate(self, draws: Draws, log_w: Tensor, scale: Tensor, paths: Paths) -> Tensor:
        numbers, log_q = log_w.detach(), log_guide(draws)
        beta, width, share = self._tempered_weights(numbers)
        mean = (share * numbers).sum(1, keepdim=True)
        covariance = self.k / (self.k - 1) * share * (numbers - mean)
        # log pi_beta = log q + beta log w + const.
        of_weight = (width * (share + beta * covariance)).sum(0)
        of_guide = (width * covariance).sum(0)
        if self.bound == "upper":  # d log w = -d log q
            return (scale * (of_guide - of_weight) * log_q).sum()
        return -(scale * (of_weight * log_w + of_guide * log_q)).sum()

    def _tempered_weights(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return beta and the width of its interval, (P, 1, 1), and v_i at each beta, (P, K, N)."""
        edges = log_w.new_tensor(self.partitions)[:, None, None]
        beta = edges[1:] if self.bound == "upper" else edges[:-1]
        return beta, edges.diff(dim=0), (beta * log_w).softmax(1)
