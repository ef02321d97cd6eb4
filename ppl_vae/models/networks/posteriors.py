"""Approximate posteriors to inject as `encoder`: distributions, and networks that return them."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from ppl_vae.models.distributions.rank_one_normal import RankOneNormal
from ppl_vae.models.networks.layers import MLP, Network
from ppl_vae.shared.checks import check_whole

SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION = -30.0, 80.0
"""Single precision can still hold (u / d)^2, of the gradients, for u up to 1e3."""


class RankOneNormalNet(Network):
    """N(loc(h), (diag exp(log_precision(h)) + u(h) u(h)^T)^-1) with h = MLP(inputs).

    log_precision is cut to [-30, 80].

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Size of the event.
        hidden: Sizes of the hidden layers.
        activation: Name of the activation.
        batch_norm: Whether hidden layers are normalised, see `layers.BatchNorm`.
    """

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole("out_dim", out_dim, 1)
        self.trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm)
        self.loc = nn.Linear(self.trunk.out_dim, out_dim)
        self.log_precision = nn.Linear(self.trunk.out_dim, out_dim)
        self.u = nn.Linear(self.trunk.out_dim, out_dim)

    def forward(self, *inputs: Tensor) -> RankOneNormal:
        h = self.trunk(*inputs)
        log_precision = self.log_precision(h).clamp(SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION)
        return RankOneNormal(self.loc(h), log_precision.exp(), self.u(h))
