"""See `ppl_vae.models.baseline`."""

from collections.abc import Sequence
from typing import Any

import numpyro
from jax import Array

from ppl_vae.numpyro.models.conditional import ConditionalModel
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional
from ppl_vae.shared.checks import check_dims


class Baseline(ConditionalModel):
    """See `ppl_vae.models.Baseline`; takes a keyword-only `key`."""

    baseline: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        c_dim: int = 784,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        *,
        baseline: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim, c_dim=c_dim)
        self.x_dim, self.c_dim = x_dim, c_dim
        self.baseline = baseline or BernoulliNet(c_dim, x_dim, hidden, activation, key=key)

    def model(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            self.observe(self.baseline(self.vectors(c)), x, mask)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        pass

    def check(self, *data: Any) -> None:
        self.check_conditioned(self.baseline, *data)
