"""Networks that return approximate posteriors, to inject as `encoder`."""

from typing import ClassVar

from torch import Tensor, nn

from ppl_vae.models.distributions.rank_one_normal import RankOneNormal
from ppl_vae.models.networks.conditionals import VectorNet

SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION = -30.0, 80.0
"""Within these (u / d)^2, a factor of gradients, is finite in single precision for |u| < 1e3."""


class RankOneNormalNet(VectorNet):
    """Normal distribution whose precision is exp(log_precision(h)) plus a rank-one matrix.

        N(loc(h), (diag exp(log_precision(h)) + u(h) u(h)^T)^-1)  with h = MLP(inputs)

    log_precision is clipped to [-30, 80].

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Size of the event.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `layers.ACTIVATIONS`.
        batch_norm: Whether hidden layers are normalised; see `layers.BatchNorm`.
    """

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    heads = ("loc", "log_precision", "u")
    loc: nn.Linear
    log_precision: nn.Linear
    u: nn.Linear

    def forward(self, *inputs: Tensor) -> RankOneNormal:
        h = self.trunk(*inputs)
        log_precision = self.log_precision(h).clamp(SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION)
        return RankOneNormal(self.loc(h), log_precision.exp(), self.u(h))
