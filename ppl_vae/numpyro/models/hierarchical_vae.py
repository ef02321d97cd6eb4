"""See `ppl_vae.models.hierarchical_vae`."""

from collections.abc import Sequence
from itertools import pairwise

import equinox as eqx
import jax
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.numpyro.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_layers


class HierarchicalVAE(Model):
    """See `ppl_vae.models.HierarchicalVAE`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    skip: bool = eqx.field(static=True)
    n_layers: int = eqx.field(static=True)
    prior: Conditional
    encoders: tuple[Conditional, ...]
    conditionals: tuple[Conditional, ...]
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (100, 50),
        hidden: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        activation: str = "tanh",
        skip: bool = False,
        batch_norm: bool = False,
        *,
        prior: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        self.x_dim, self.skip, self.n_layers = x_dim, skip, len(z_dims)
        inputs = [z_dims[i:] if skip else z_dims[i : i + 1] for i in range(len(z_dims))]
        for_decoder, *keys = jax.random.split(key, 2 * len(z_dims))
        self.prior = prior or StandardNormal(z_dims[-1])
        self.encoders = tuple(  # q(z_1 | x), q(z_2 | z_1), ...
            DiagNormalNet(*dims, sizes, activation, batch_norm, key=keys.pop())
            for dims, sizes in zip(pairwise((x_dim, *z_dims)), hidden, strict=True)
        )
        self.conditionals = tuple(  # p(z_1 | z_2, ...), p(z_2 | z_3, ...), ...
            DiagNormalNet(dims, z_dim, sizes[::-1], activation, batch_norm, key=keys.pop())
            for dims, z_dim, sizes in zip(inputs[1:], z_dims[:-1], hidden[1:], strict=True)
        )
        self.decoder = decoder or BernoulliNet(
            inputs[0], x_dim, hidden[0][::-1], activation, batch_norm, key=for_decoder
        )

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            above: tuple[Array, ...] = (numpyro.sample(f"z_{self.n_layers}", self.prior()),)
            for layer in range(self.n_layers - 1, 0, -1):
                z = numpyro.sample(f"z_{layer}", self.conditionals[layer - 1](*above))  # (1)
                above = (z, *above) if self.skip else (z,)  # (3)
            numpyro.sample("x", self.decoder(*above), obs=x)

    def guide(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            below = x
            for layer, encoder in enumerate(self.encoders, start=1):
                below = numpyro.sample(f"z_{layer}", encoder(below))  # (2)
