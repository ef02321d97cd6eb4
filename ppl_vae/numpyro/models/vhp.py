"""See `ppl_vae.models.vhp`."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.numpyro.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_hidden


class VHP(Model):
    """See `ppl_vae.models.VHP`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    hyperprior: Conditional
    prior: Conditional
    encoder: Conditional
    zeta_encoder: Conditional
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        z_dim: int = 32,
        zeta_dim: int = 32,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        hyperprior: Conditional | None = None,
        prior: Conditional | None = None,
        encoder: Conditional | None = None,
        zeta_encoder: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim, z_dim=z_dim, zeta_dim=zeta_dim)
        check_hidden(hidden)
        keys = jax.random.split(key, 4)
        self.x_dim = x_dim
        self.hyperprior = hyperprior or StandardNormal(zeta_dim)
        self.prior = prior or DiagNormalNet(zeta_dim, z_dim, hidden[::-1], activation, key=keys[0])
        self.encoder = encoder or DiagNormalNet(x_dim, z_dim, hidden, activation, key=keys[1])
        self.zeta_encoder = zeta_encoder or DiagNormalNet(
            z_dim, zeta_dim, hidden, activation, key=keys[2]
        )
        self.decoder = decoder or BernoulliNet(z_dim, x_dim, hidden[::-1], activation, key=keys[3])

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            zeta = numpyro.sample("zeta", self.hyperprior())
            z = numpyro.sample("z", self.prior(zeta))  # (1)
            numpyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", self.encoder(x))
            numpyro.sample("zeta", self.zeta_encoder(z))  # (2)
