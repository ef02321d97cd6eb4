"""See `ppl_vae.models.distributions.rank_one_normal`."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence


class RankOneNormal(dist.Distribution):  # type: ignore[misc]
    """See `ppl_vae.models.RankOneNormal`."""

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "precision_diag": constraints.independent(constraints.positive, 1),
        "precision_factor": constraints.real_vector,
    }
    support = constraints.real_vector
    reparametrized_params: ClassVar[list[str]] = ["loc", "precision_diag", "precision_factor"]

    def __init__(
        self,
        loc: Array,
        precision_diag: Array,
        precision_factor: Array,
        *,
        validate_args: bool | None = None,
    ) -> None:
        parts = {"loc": loc, "precision_diag": precision_diag, "precision_factor": precision_factor}
        _check_vectors(parts)
        self.loc, self.precision_diag, self.precision_factor = jnp.broadcast_arrays(
            loc, precision_diag, precision_factor
        )
        shape = self.loc.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def _s(self) -> Array:
        return (self.precision_factor**2 / self.precision_diag).sum(-1)

    @property
    def mean(self) -> Array:
        return self.loc

    @property
    def variance(self) -> Array:
        d, u = self.precision_diag, self.precision_factor
        s = self._s[..., None]
        return (1 + (s - u**2 / d)) / (1 + s) / d  # the diagonal of (1), positive where s is large

    @property
    def covariance_matrix(self) -> Array:
        """See `ppl_vae.models.RankOneNormal.covariance_matrix`."""
        v = self.precision_factor / self.precision_diag
        outer = v[..., :, None] * v[..., None, :]
        diagonal = jnp.eye(v.shape[-1]) / self.precision_diag[..., None]
        return diagonal - outer / (1 + self._s)[..., None, None]

    @property
    def log_det_covariance(self) -> Array:
        """See `ppl_vae.models.RankOneNormal.log_det_covariance`."""
        return -jnp.log1p(self._s) - jnp.log(self.precision_diag).sum(-1)  # (2)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = tuple(sample_shape) + self.batch_shape + self.event_shape
        eps = jax.random.normal(key, shape, self.loc.dtype)
        d, u = self.precision_diag, self.precision_factor
        root = jnp.sqrt(1 + self._s)  # eta^-1/2
        scaled = eps / jnp.sqrt(d)
        projection = (u * scaled).sum(-1) / (root * (root + 1))  # (1 - eta^1/2) / s, for s = 0 too
        return self.loc + scaled - projection[..., None] * u / d  # (3)

    def log_prob(self, value: Array) -> Array:
        if self._validate_args:
            self._validate_sample(value)
        residual = value - self.loc
        projection = (self.precision_factor * residual).sum(-1)
        square = (self.precision_diag * residual**2).sum(-1) + projection**2
        const = self.event_shape[0] * math.log(2 * math.pi)
        log_prob: Array = -0.5 * (const + self.log_det_covariance + square)
        return log_prob

    def entropy(self) -> Array:
        const = self.event_shape[0] * (1 + math.log(2 * math.pi))
        entropy: Array = 0.5 * (const + self.log_det_covariance)
        return entropy


@kl_divergence.register(RankOneNormal, dist.Independent)  # type: ignore[untyped-decorator]
def _kl_rank_one_normal_and_diag_normal(q: RankOneNormal, p: dist.Independent) -> Array:
    """See `ppl_vae.models.distributions.rank_one_normal`."""
    base = p.base_dist
    while isinstance(base, dist.ExpandedDistribution):  # by a plate
        base = base.base_dist
    if not isinstance(base, dist.Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    square = (q.variance + (q.loc - p.mean) ** 2) / p.variance
    kl: Array = 0.5 * ((square - 1 + jnp.log(p.variance)).sum(-1) - q.log_det_covariance)
    return kl


def _check_vectors(parts: dict[str, Array]) -> None:
    dims = jnp.shape(parts["loc"])[-1:]
    for name, value in parts.items():
        shape = jnp.shape(value)
        if not shape or shape[-1:] != dims:
            wanted = dims[0] if dims else "dim"
            raise ValueError(f"{name} should have shape (..., {wanted}), had {shape}")
