"""Normal distributions that stay finite at extreme variances."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Normal, register_kl


class LogVarNormal(dist.Normal):
    """Normal distribution N(loc, exp(log_var)) whose gradients stay finite where its density is.

        log p(x) = -1/2 [((x - loc) exp(-log_var / 2))^2 + log_var + log 2 pi]

    In `Normal(loc, scale)` gradients overflow first: the gradient with respect to the scale is
    squared distance / scale^3. At a scale of 1e-12 and a distance of 1 it exceeds single precision,
    though the log density and its gradient with respect to log_var are only about 1e24.

    Args:
        loc: The mean.
        log_var: Logarithm of the variance; broadcasts with loc.
    """

    log_var: Tensor

    def __init__(self, loc: Tensor, log_var: Tensor, validate_args: bool | None = None) -> None:
        self.log_var = log_var.expand(torch.broadcast_shapes(loc.shape, log_var.shape))
        super().__init__(loc, (0.5 * log_var).exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogVarNormal":
        new: LogVarNormal = self._get_checked_instance(  # type: ignore[no-untyped-call]
            LogVarNormal, _instance
        )
        new.log_var = self.log_var.expand(batch_shape)
        expanded: LogVarNormal = super().expand(  # type: ignore[no-untyped-call]
            batch_shape, _instance=new
        )
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        residual = (value - self.loc) * (-0.5 * self.log_var).exp()
        log_prob: Tensor = -0.5 * (residual**2 + self.log_var + math.log(2 * math.pi))
        return log_prob


def log_var_of(normal: Normal) -> Tensor:
    """Return the logarithm of the variance of any normal distribution."""
    return normal.log_var if isinstance(normal, LogVarNormal) else 2 * normal.scale.log()


@register_kl(LogVarNormal, Normal)  # type: ignore[untyped-decorator]
def _kl_normal_normal(q: LogVarNormal, p: Normal) -> Tensor:
    """Return KL(q, p) without a ratio of variances, which has no logarithm where it is 0."""
    log_var = log_var_of(p)
    residual = (q.loc - p.loc) * (-0.5 * log_var).exp()
    log_ratio = q.log_var - log_var
    kl: Tensor = 0.5 * (log_ratio.exp() + residual**2 - 1 - log_ratio)
    return kl
