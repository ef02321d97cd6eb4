"""See `ppl_vae.models.networks.posteriors`."""

from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from ppl_vae.numpyro.models.distributions.rank_one_normal import RankOneNormal
from ppl_vae.numpyro.models.networks.conditionals import NO_DROPOUT, TrunkAndHeads
from ppl_vae.numpyro.models.networks.layers import Linear
from ppl_vae.shared.checks import check_whole

SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION = -30.0, 80.0


class RankOneNormalNet(TrunkAndHeads):
    """See `ppl_vae.models.RankOneNormalNet`; takes a keyword-only `key`."""

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
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
        trunk = (in_dims, hidden, activation, NO_DROPOUT, batch_norm)
        self._build(*trunk, key=key, loc=out_dim, log_precision=out_dim, u=out_dim)

    def __call__(self, *inputs: Array) -> RankOneNormal:
        h = self.trunk(*inputs)
        log_precision = jnp.clip(
            self.log_precision(h), SMALLEST_LOG_PRECISION, LARGEST_LOG_PRECISION
        )
        return RankOneNormal(self.loc(h), jnp.exp(log_precision), self.u(h))
