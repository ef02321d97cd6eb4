"""Approximate posteriors to inject as `encoder`, as `ppl_vae.models.networks.posteriors`."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from ppl_vae.numpyro.models.distributions.rank_one_normal import RankOneNormal
from ppl_vae.numpyro.models.networks.layers import MLP, Linear, Network
from ppl_vae.shared.checks import check_whole

SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION = -30.0, 80.0


class RankOneNormalNet(Network):
    """RankOneNormal(loc(h), exp(log_precision(h)), u(h)), as `ppl_vae.models.RankOneNormalNet`."""

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    trunk: MLP
    loc: Linear
    log_precision: Linear
    u: Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        batch_norm: bool = False,
        *,
        key: Array,
    ) -> None:
        check_whole("out_dim", out_dim, 1)
        for_trunk, *keys = jax.random.split(key, 4)
        self.trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm, key=for_trunk)
        self.loc, self.log_precision, self.u = (
            Linear(self.trunk.out_dim, out_dim, key=for_linear) for for_linear in keys
        )

    def __call__(self, *inputs: Array) -> RankOneNormal:
        h = self.trunk(*inputs)
        log_precision = jnp.clip(
            self.log_precision(h), SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION
        )
        return RankOneNormal(self.loc(h), jnp.exp(log_precision), self.u(h))
