"""See `ppl_vae.models.ladder_vae`."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpyro
import numpyro.distributions as dist
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.distributions.normal import LogVarNormal, log_var_of
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.numpyro.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_layers


class LadderVAE(Model):
    """See `ppl_vae.models.LadderVAE`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    n_layers: int = eqx.field(static=True)
    prior: Conditional
    encoders: tuple[DiagNormalNet, ...]
    conditionals: tuple[Conditional, ...]
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (64, 32, 16, 8, 4),
        hidden: Sequence[Sequence[int]] = ((512, 512), (256, 256), (128, 128), (64, 64), (32, 32)),
        activation: str = "leaky_relu",
        batch_norm: bool = True,
        *,
        prior: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        self.x_dim, self.n_layers = x_dim, len(z_dims)
        for_decoder, *keys = jax.random.split(key, 2 * len(z_dims))
        self.prior = prior or StandardNormal(z_dims[-1])
        encoders = []  # n_1, n_2, ..., each with its own trunk
        d_dim = x_dim
        for z_dim, sizes in zip(z_dims, hidden, strict=True):
            encoders.append(
                DiagNormalNet(d_dim, z_dim, sizes, activation, batch_norm, key=keys.pop())
            )
            d_dim = sizes[-1] if sizes else d_dim
        self.encoders = tuple(encoders)
        self.conditionals = tuple(  # p(z_1 | z_2), p(z_2 | z_3), ...
            DiagNormalNet(above, z_dim, sizes[::-1], activation, batch_norm, key=keys.pop())
            for above, z_dim, sizes in zip(z_dims[1:], z_dims[:-1], hidden[1:], strict=True)
        )
        self.decoder = decoder or BernoulliNet(
            z_dims[0], x_dim, hidden[0][::-1], activation, batch_norm, key=for_decoder
        )

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample(f"z_{self.n_layers}", self.prior())
            for layer in range(self.n_layers - 1, 0, -1):
                z = numpyro.sample(f"z_{layer}", self.conditionals[layer - 1](z))  # (1)
            numpyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Array) -> None:
        *below, top = self.bottom_up(x)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample(f"z_{self.n_layers}", top)  # (4)
            for layer in range(self.n_layers - 1, 0, -1):
                q = merge(below[layer - 1], self.conditionals[layer - 1](z))  # (5)
                z = numpyro.sample(f"z_{layer}", q)

    def bottom_up(self, x: Array) -> list[dist.Distribution]:
        """See `ppl_vae.models.LadderVAE.bottom_up`."""
        estimates, d = [], x
        for encoder in self.encoders:
            d = encoder.trunk(d)  # (2)
            estimates.append(encoder.head(d))  # (3)
        return estimates


def merge(a: dist.Distribution, b: dist.Distribution) -> dist.Distribution:
    """See `ppl_vae.models.ladder_vae.merge`."""
    a, b = a.base_dist, b.base_dist
    log_var = log_var_of(a)
    log_ratio = log_var - log_var_of(b)
    loc = a.loc * jax.nn.sigmoid(-log_ratio) + b.loc * jax.nn.sigmoid(log_ratio)
    return LogVarNormal(loc, log_var - jax.nn.softplus(log_ratio)).to_event(1)
