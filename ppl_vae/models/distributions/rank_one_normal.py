"""The normal distribution whose precision is a diagonal plus a rank-one matrix."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, constraints, register_kl


class RankOneNormal(dist.TorchDistribution):
    """Normal distribution with precision D + u u^T, D = diag(d), in time and memory O(dim).

        C        = D^-1 - eta D^-1 u u^T D^-1,   eta = 1 / (1 + s),   s = u^T D^-1 u    (1)
        log |C|  = log eta - log |D|                                                   (2)
        C        = R R^T,  R = D^-1/2 - [(1 - eta^1/2) / s] D^-1 u u^T D^-1/2          (3)

    C is the covariance. A draw is loc + R eps with eps ~ N(0, I). The factor in (3) is computed
    without the division by s, so that u = 0, the normal with precision D, is no special case.

    References:
        Rezende, Mohamed & Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep
        Generative Models", ICML 2014, arXiv:1401.4082 (Gaussians with structured covariance).

    Args:
        loc: The mean, shape (..., dim).
        precision_diag: d > 0, shape (..., dim).
        precision_factor: u, shape (..., dim); the leading dimensions of all three broadcast.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "precision_diag": constraints.independent(constraints.positive, 1),
        "precision_factor": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True
    loc: Tensor
    precision_diag: Tensor
    precision_factor: Tensor

    def __init__(
        self,
        loc: Tensor,
        precision_diag: Tensor,
        precision_factor: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        parts = {"loc": loc, "precision_diag": precision_diag, "precision_factor": precision_factor}
        _check_vectors(parts)
        self.loc, self.precision_diag, self.precision_factor = torch.broadcast_tensors(
            loc, precision_diag, precision_factor
        )
        shape = self.loc.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RankOneNormal":
        new: RankOneNormal = self._get_checked_instance(  # type: ignore[no-untyped-call]
            RankOneNormal, _instance
        )
        batch_shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape + self.event_shape))
        super(RankOneNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _s(self) -> Tensor:
        return (self.precision_factor**2 / self.precision_diag).sum(-1)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        d, u = self.precision_diag, self.precision_factor
        s = self._s[..., None]
        return (1 + (s - u**2 / d)) / (1 + s) / d  # the diagonal of (1), positive where s is large

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance C, shape (..., dim, dim)."""
        v = self.precision_factor / self.precision_diag
        outer = v[..., :, None] * v[..., None, :]
        return torch.diag_embed(1 / self.precision_diag) - outer / (1 + self._s)[..., None, None]

    @property
    def log_det_covariance(self) -> Tensor:
        """The log determinant log |C|, shape (...)."""
        return -torch.log1p(self._s) - self.precision_diag.log().sum(-1)  # (2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        d, u = self.precision_diag, self.precision_factor
        root = (1 + self._s).sqrt()  # eta^-1/2
        scaled = eps / d.sqrt()
        projection = (u * scaled).sum(-1) / (root * (root + 1))  # (1 - eta^1/2) / s, for s = 0 too
        draw: Tensor = self.loc + scaled - projection[..., None] * u / d  # (3)
        return draw

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        residual = value - self.loc
        projection = (self.precision_factor * residual).sum(-1)
        square = (self.precision_diag * residual**2).sum(-1) + projection**2
        const = self.event_shape[0] * math.log(2 * math.pi)
        log_prob: Tensor = -0.5 * (const + self.log_det_covariance + square)
        return log_prob

    def entropy(self) -> Tensor:
        const = self.event_shape[0] * (1 + math.log(2 * math.pi))
        entropy: Tensor = 0.5 * (const + self.log_det_covariance)
        return entropy


@register_kl(RankOneNormal, Independent)  # type: ignore[untyped-decorator]
def _kl_rank_one_normal_and_diag_normal(q: RankOneNormal, p: Independent[Any]) -> Tensor:
    """Return KL(q, p) for a diagonal normal p = N(m, S).

    0.5 [tr(S^-1 C) + (m - loc)^T S^-1 (m - loc) - dim + log |S| - log |C|]
    """
    base = p.base_dist
    if not isinstance(base, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    square = (q.variance + (q.loc - base.loc) ** 2) / base.variance
    kl: Tensor = 0.5 * ((square - 1 + base.variance.log()).sum(-1) - q.log_det_covariance)
    return kl


def _check_vectors(parts: dict[str, Tensor]) -> None:
    dims = parts["loc"].shape[-1:]
    for name, value in parts.items():
        if value.ndim < 1 or value.shape[-1:] != dims:
            wanted = dims[0] if dims else "dim"
            raise ValueError(f"{name} should have shape (..., {wanted}), had {tuple(value.shape)}")
