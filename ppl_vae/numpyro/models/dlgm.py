"""See `ppl_vae.models.dlgm`."""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import equinox as eqx
import jax
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.numpyro.models.networks.layers import MLP, Linear, Network
from ppl_vae.numpyro.models.networks.posteriors import RankOneNormalNet
from ppl_vae.numpyro.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_layers

COVARIANCES: dict[str, Callable[..., Conditional]] = {
    "diagonal": DiagNormalNet,
    "rank_one": RankOneNormalNet,
}


class DLGM(Model):
    """See `ppl_vae.models.DLGM`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    priors: tuple[StandardNormal, ...]
    loadings: tuple[Array, ...]
    transforms: tuple[Callable[[Array], Array], ...]
    encoders: tuple[Conditional, ...]
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (200,),
        hidden: Sequence[Sequence[int]] = ((200, 200),),
        covariance: str = "rank_one",
        activation: str = "relu",
        batch_norm: bool = False,
        *,
        transforms: Sequence[Callable[[Array], Array]] | None = None,
        encoders: Sequence[Conditional] | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        n_layers = len(z_dims)
        for name, given in (("transforms", transforms), ("encoders", encoders)):
            n = n_layers - (name == "transforms")
            if given is not None and len(given) != n:
                raise ValueError(f"{name} should be {n} networks, one per layer, had {len(given)}")
        if covariance not in tuple(COVARIANCES):
            raise ValueError(
                f"covariance should be one of {tuple(COVARIANCES)}, was {covariance!r}"
            )
        for_decoder, *keys = jax.random.split(key, 1 + n_layers)
        keys_of = [jax.random.split(for_layer, 3) for for_layer in keys]
        self.x_dim = x_dim
        self.priors = tuple(StandardNormal(z_dim) for z_dim in z_dims)
        self.loadings = tuple(_loading(n, k[0]) for n, k in zip(z_dims, keys_of, strict=True))
        self.transforms = tuple(
            [
                _Transform(above, below, sizes[::-1], activation, batch_norm, key=k[1])
                for (below, above), sizes, k in zip(
                    pairwise(z_dims), hidden[1:], keys_of[1:], strict=True
                )
            ]
            if transforms is None
            else transforms
        )
        self.encoders = tuple(
            [
                COVARIANCES[covariance](
                    x_dim,
                    z_dim,
                    tuple(chain(*hidden[: i + 1])),
                    activation,
                    batch_norm,
                    key=keys_of[i][2],
                )
                for i, z_dim in enumerate(z_dims)
            ]
            if encoders is None
            else encoders
        )
        self.decoder = decoder or BernoulliNet(
            z_dims[0], x_dim, hidden[0][::-1], activation, batch_norm, key=for_decoder
        )

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            h = None
            for i in reversed(range(len(self.priors))):
                xi = numpyro.sample(f"xi_{i + 1}", self.priors[i]())  # (1)
                noise = xi @ self.loadings[i].T
                h = noise if h is None else self.transforms[i](h) + noise  # (2), (3)
            numpyro.sample("x", self.decoder(h), obs=x)  # (4)

    def guide(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            for i, encoder in enumerate(self.encoders):
                numpyro.sample(f"xi_{i + 1}", encoder(x))  # (5)


class _Transform(Network):
    """See `ppl_vae.models.dlgm._Transform`."""

    trunk: MLP
    out: Linear

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        *,
        key: Array,
    ) -> None:
        for_trunk, for_out = jax.random.split(key)
        self.trunk = MLP(in_dim, hidden, activation, batch_norm=batch_norm, key=for_trunk)
        self.out = Linear(self.trunk.out_dim, out_dim, key=for_out)

    def __call__(self, h: Array) -> Array:
        return self.out(self.trunk(h))


def _loading(dim: int, key: Array) -> Array:
    """See `ppl_vae.models.dlgm._loading`."""
    return jax.random.uniform(key, (dim, dim), minval=-(dim**-0.5), maxval=dim**-0.5)
