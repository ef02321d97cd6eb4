"""Conditional models: structured prediction with latent variables."""

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
    """Gaussian stochastic neural network, as `ppl_vae.models.GSNN`.

        p(x, z | c) = p(z | c) p(x | c, z),    p(z | c) = N(mu(c), diag sigma(c)^2)     (1)
        q(z | c, x) = p(z | c)                                                          (2)

    Its bound, E_{p(z | c)} log p(x | c, z), trains no recognition network; `CVAE` adds one, and
    `CVAE.gsnn()` gives the pair that shares the other networks with it.

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes
            0, ..., c_dim - 1, which networks are given as one-hot vectors.
        z_dim: Size of the latent variable.
        hidden: Hidden layers of the prior (and the encoder); the decoder has them in reverse order.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        decoder_sees_c: Whether the decoder is p(x | c, z), or p(x | z) alone as in Pyro's example.
        prior: p(z | c), called with c, and with the guess if there is a baseline.
        decoder: p(x | c, z), called with z, and with c if `decoder_sees_c`.
        baseline: p0(x | c), called with c; only its mean is used.
        key: Random key of the initial weights.
    """

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
        seen = (c_dim,) if baseline is None else (c_dim, x_dim)
        self.prior = prior or DiagNormalNet(seen, z_dim, hidden, activation, key=for_prior)
        inputs = (z_dim, c_dim) if decoder_sees_c else (z_dim,)
        self.decoder = decoder or BernoulliNet(
            inputs, x_dim, hidden[::-1], activation, key=for_decoder
        )
        self.baseline = baseline

    def model(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", self.prior(*self.seen(c)))  # (1)
            p = self.decoder(z, self.vectors(c)) if self.decoder_sees_c else self.decoder(z)
            self.observe(p, x, mask)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", self.prior(*self.seen(c)))  # (2)

    def seen(self, c: Array) -> tuple[Array, ...]:
        """What the prior (and the encoder) know of c: its vectors, and the baseline's guess."""
        c = self.vectors(c)
        return (c,) if self.baseline is None else (c, self.baseline(c).mean)

    def check(self, *data: Any) -> None:
        self.check_conditioned(self.decoder, *data)


class CVAE(GSNN):
    """Conditional variational autoencoder, as `ppl_vae.models.CVAE`.

        p(x, z | c) = p(z | c) p(x | c, z),    p(z | c) = N(mu(c), diag sigma(c)^2)     (1)
        q(z | c, x) = N(m(c, x), diag s(c, x)^2)                                        (3)

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes.
        z_dim: Size of the latent variable.
        hidden: Hidden layers of prior and encoder; the decoder has them in reverse order.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        decoder_sees_c: Whether the decoder is p(x | c, z), or p(x | z) alone.
        prior: p(z | c), called with c, and with the guess if there is a baseline.
        encoder: q(z | c, x), called with x, c, and with the guess if there is a baseline.
        decoder: p(x | c, z), called with z, and with c if `decoder_sees_c`.
        baseline: p0(x | c), called with c; only its mean is used.
        key: Random key of the initial weights.
    """

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
        parts: dict[str, Any] = {"prior": prior, "decoder": decoder, "baseline": baseline}
        super().__init__(
            x_dim, c_dim, z_dim, hidden, activation, decoder_sees_c, **parts, key=for_rest
        )
        seen = (x_dim, c_dim) if baseline is None else (x_dim, c_dim, x_dim)
        self.encoder = encoder or DiagNormalNet(seen, z_dim, hidden, activation, key=for_encoder)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", self.encoder(self.counted(x, mask), *self.seen(c)))  # (3)

    def gsnn(self) -> GSNN:
        """The pair whose guide is the prior, with this model's networks."""
        given = {name: v for name, v in self.arguments.items() if name != "encoder"}
        parts = {"prior": self.prior, "decoder": self.decoder, "baseline": self.baseline}
        return GSNN(**{**given, **parts}, key=jax.random.key(0))  # a key of weights not used
