"""See `ppl_vae.models.vae`."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.numpyro.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims


class VAE(Model):
    """See `ppl_vae.models.VAE`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    prior: Conditional
    encoder: Conditional
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        z_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        prior: Conditional | None = None,
        encoder: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim, z_dim=z_dim)
        for_encoder, for_decoder = jax.random.split(key)
        self.x_dim = x_dim
        self.prior = prior or StandardNormal(z_dim)
        self.encoder = encoder or DiagNormalNet(x_dim, z_dim, hidden, activation, key=for_encoder)
        self.decoder = decoder or BernoulliNet(
            z_dim, x_dim, hidden[::-1], activation, key=for_decoder
        )

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", self.prior())  # (1)
            numpyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", self.encoder(x))  # (2)
