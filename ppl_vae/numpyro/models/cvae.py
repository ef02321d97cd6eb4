"""See `ppl_vae.models.cvae`."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpyro
from jax import Array

from ppl_vae.numpyro.models.conditional import ConditionalModel
from ppl_vae.numpyro.models.networks.conditionals import BernoulliNet, Conditional, DiagNormalNet
from ppl_vae.shared.checks import check_dims


class GSNN(ConditionalModel):
    """See `ppl_vae.models.GSNN`; takes a keyword-only `key`."""

    decoder_sees_c: bool = eqx.field(static=True)
    prior: Conditional
    decoder: Conditional
    baseline: Conditional | None

    def __init__(
        self,
        x_dim: int = 784,
        c_dim: int = 784,
        z_dim: int = 200,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        decoder_sees_c: bool = True,
        *,
        prior: Conditional | None = None,
        decoder: Conditional | None = None,
        baseline: Conditional | None = None,
        key: Array,
    ) -> None:
        for_prior, for_decoder = jax.random.split(key)
        check_dims(x_dim=x_dim, c_dim=c_dim, z_dim=z_dim)
        self.x_dim, self.c_dim, self.decoder_sees_c = x_dim, c_dim, decoder_sees_c
        prior_dims = (c_dim,) if baseline is None else (c_dim, x_dim)
        self.prior = prior or DiagNormalNet(prior_dims, z_dim, hidden, activation, key=for_prior)
        inputs = (z_dim, c_dim) if decoder_sees_c else (z_dim,)
        self.decoder = decoder or BernoulliNet(
            inputs, x_dim, hidden[::-1], activation, key=for_decoder
        )
        self.baseline = baseline

    def model(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", self.prior(*self.prior_inputs(c)))  # (1)
            p = self.decoder(z, self.vectors(c)) if self.decoder_sees_c else self.decoder(z)
            self.observe(p, x, mask)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", self.prior(*self.prior_inputs(c)))  # (2)

    def prior_inputs(self, c: Array) -> tuple[Array, ...]:
        """See `ppl_vae.models.GSNN.prior_inputs`."""
        c = self.vectors(c)
        return (c,) if self.baseline is None else (c, self.baseline(c).mean)


class CVAE(GSNN):
    """See `ppl_vae.models.CVAE`; takes a keyword-only `key`."""

    encoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        c_dim: int = 784,
        z_dim: int = 200,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        decoder_sees_c: bool = True,
        *,
        prior: Conditional | None = None,
        encoder: Conditional | None = None,
        decoder: Conditional | None = None,
        baseline: Conditional | None = None,
        key: Array,
    ) -> None:
        for_rest, for_encoder = jax.random.split(key)
        networks: dict[str, Any] = {"prior": prior, "decoder": decoder, "baseline": baseline}
        super().__init__(
            x_dim, c_dim, z_dim, hidden, activation, decoder_sees_c, **networks, key=for_rest
        )
        in_dims = (x_dim, c_dim) if baseline is None else (x_dim, c_dim, x_dim)
        self.encoder = encoder or DiagNormalNet(in_dims, z_dim, hidden, activation, key=for_encoder)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample(
                "z", self.encoder(self.zero_outside_mask(x, mask), *self.prior_inputs(c))
            )  # (3)

    def gsnn(self) -> GSNN:
        """See `ppl_vae.models.CVAE.gsnn`."""
        given = {name: v for name, v in self.arguments.items() if name != "encoder"}
        networks = {"prior": self.prior, "decoder": self.decoder, "baseline": self.baseline}
        return GSNN(**{**given, **networks}, key=jax.random.key(0))  # no weights are made
