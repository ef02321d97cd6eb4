"""The ladder variational autoencoder."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpyro
import numpyro.distributions as dist
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.distributions.normal import LogVarNormal, log_var_of
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.numpyro.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_arguments, check_dims, check_layers, check_matrix


class LadderVAE(Model):
    """Variational autoencoder with a bottom-up and top-down guide, as `ppl_vae.models.LadderVAE`.

        p(x, z)  = p(z_L) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1),    p(z_L) = N(0, I)     (1)
        d_l      = MLP(d_{l-1}),    d_0 = x                                               (2)
        n_l      = N(mu_l(d_l), diag sigma_l(d_l)^2)                                      (3)
        q(z | x) = n_L(z_L) prod_{l<L} q(z_l | z_{l+1}, x)                                (4)
        q(z_l | z_{l+1}, x) = merge(n_l, p(z_l | z_{l+1}))                                (5)

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dims: Sizes of z_1, ..., z_L, z_1 the nearest to the data.
        hidden: Hidden layers of (2) for l = 1, ..., L: a sequence of sizes for each layer;
            p(x | z_1), p(z_1 | z_2), ... have them in reverse order.
        activation: Of the hidden layers: "leaky_relu", "tanh", "relu", ...; see
            `layers.ACTIVATIONS`.
        batch_norm: Whether hidden layers are normalised, those of `encoders`, `conditionals` and
            the default decoder; see `layers.BatchNorm`.
        prior: p(z_L), called without inputs.
        decoder: p(x | z_1), called with z_1.
        key: Random key of the initial weights.
    """

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
        encoders = []  # n_1, n_2, ..., each on a trunk of its own
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
        """n_1, ..., n_L: what x of shape (..., x_dim) says of each layer."""
        found, d = [], x
        for encoder in self.encoders:
            d = encoder.trunk(d)  # (2)
            found.append(encoder.head(d))  # (3)
        return found

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",))
        check_matrix("x", data[0], self.x_dim, *self.support(self.decoder))


def merge(a: dist.Distribution, b: dist.Distribution) -> dist.Distribution:
    """The product of two diagonal normal densities, normalised; batch shapes are broadcast.

    1 / sigma^2 = 1 / sigma_a^2 + 1 / sigma_b^2,
    mu = sigma^2 (mu_a / sigma_a^2 + mu_b / sigma_b^2).

    Computed of log_var = log sigma^2, as squares of precisions would overflow in the gradient.
    """
    a, b = a.base_dist, b.base_dist
    log_var = log_var_of(a)
    less = log_var - log_var_of(b)
    loc = a.loc * jax.nn.sigmoid(-less) + b.loc * jax.nn.sigmoid(less)
    return LogVarNormal(loc, log_var - jax.nn.softplus(less)).to_event(1)
