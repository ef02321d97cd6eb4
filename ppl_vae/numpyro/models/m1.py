"""See `ppl_vae.models.m1`."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from ppl_vae.numpyro.models.base import as_jax
from ppl_vae.numpyro.models.networks.conditionals import Conditional
from ppl_vae.numpyro.models.vae import VAE
from ppl_vae.shared.checks import to_mean


class M1(VAE):
    """See `ppl_vae.models.M1`; takes a keyword-only `key`."""

    def __init__(
        self,
        x_dim: int = 784,
        z_dim: int = 50,
        hidden: Sequence[int] = (600, 600),
        activation: str = "softplus",
        *,
        prior: Conditional | None = None,
        encoder: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        super().__init__(
            x_dim, z_dim, hidden, activation, prior=prior, encoder=encoder, decoder=decoder, key=key
        )

    def features(self, x: Any) -> tuple[Array, Array]:
        """See `ppl_vae.models.M1.features`."""
        x = to_mean(x)
        self.check(x)
        q = self.encoder(as_jax(x))  # (3)
        return q.mean, jnp.sqrt(q.variance)
