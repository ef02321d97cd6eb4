"""The variational autoencoder as a maker of features."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from ppl_vae.numpyro.models.base import as_jax
from ppl_vae.numpyro.models.networks.conditionals import Conditional
from ppl_vae.numpyro.models.vae import VAE
from ppl_vae.shared.checks import to_mean


class M1(VAE):
    """The latent-feature discriminative model M1, as `ppl_vae.models.M1`.

        p(x, z)  = p(z) p(x | z),    p(z) = N(0, I)                     (1)
        q(z | x) = N(mu(x), diag sigma(x)^2)                            (3)

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dim: Size of the latent variable, the number of features.
        hidden: Hidden layers of the encoder; the decoder has them in reverse order.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        prior: p(z), called without inputs.
        encoder: q(z | x), called with x.
        decoder: p(x | z), called with z.
        key: Random key of the initial weights.
    """

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
        """Mean and scale of q(z | x), each (n, z_dim), for x of shape (n, x_dim).

        Of data that are drawn anew (`ppl_vae.data.Dynamic`) the means are taken.
        """
        x = to_mean(x)
        self.check(x)
        q = self.encoder(as_jax(x))  # (3)
        return q.mean, jnp.sqrt(q.variance)
