"""The importance-weighted bound with per-particle baselines."""

import math
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ppl_vae.inference.objectives.iwae import IWAE
from ppl_vae.shared.checks import check_choice, check_whole

Mean: TypeAlias = Literal["geometric", "arithmetic"]


class VIMCO(IWAE):
    """Negative importance-weighted bound for discrete or mixed latents, with a baseline for each
    particle from the weights of the others.

        value:      L = log 1/K sum_i w_i,   w_i = p(x, z_i) / q(z_i | x)
        gradient:   dL + sum_i (L - L_{-i}) d log q(z_i | x)                               (1)
        baseline:   L_{-i} = log 1/K (sum_{j != i} w_j + m_{-i})                           (2)

    where m_{-i} replaces w_i by the geometric or the arithmetic mean of the other w_j. As L_{-i}
    does not depend on z_i, the gradient has the expectation of that of `IWAE`, and its score
    function has a much smaller variance.

    Latents that can be reparametrised are; if all can, this is `IWAE`. See `MultiSample` for scales
    and masks.

    References:
        Mnih & Rezende, "Variational inference for Monte Carlo objectives", 2016,
        arXiv:1602.06725, section 2 and algorithm 1 ((1) and (2)).

    Differs from the paper:
        Latents may be mixed; those of the paper are discrete.

    Args:
        k: Number of particles K, at least 2.
        mean: The mean of the other weights, "geometric" (the paper's choice) or "arithmetic".
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: k or mean is invalid; (when used) as for `IWAE`.
    """

    def __init__(self, k: int, mean: Mean = "geometric", *, max_plate_nesting: int = 1) -> None:
        check_whole("k", k, 2)
        check_choice("mean", mean, get_args(Mean))
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.mean = mean

    def signal(self, bound: Tensor, log_w: Tensor) -> Tensor:
        sum_of_others = torch.logaddexp(*_before_and_after(log_w, torch.logcumsumexp, -math.inf))
        if self.mean == "arithmetic":  # (S + S / (K - 1)) / K = S / (K - 1)
            return bound.unsqueeze(-2) - (sum_of_others - math.log(self.k - 1))
        before, after = _before_and_after(log_w, torch.cumsum, 0.0)
        mean = (before + after) / (self.k - 1)
        baseline = torch.logaddexp(sum_of_others, mean) - math.log(self.k)
        return bound.unsqueeze(-2) - baseline


def _before_and_after(log_w: Tensor, accumulate: Any, empty: float) -> tuple[Tensor, Tensor]:
    """Accumulate the particles before each one, and those after it: (..., K, N) each.

    Subtracting a particle from the total would lose all digits of the others where it dominates.
    """
    before = accumulate(log_w[..., :-1, :], -2)
    after = accumulate(log_w[..., 1:, :].flip(-2), -2).flip(-2)
    return F.pad(before, (0, 0, 1, 0), value=empty), F.pad(after, (0, 0, 0, 1), value=empty)
