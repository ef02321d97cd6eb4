"""Sigmoid belief networks: layers of binary or categorical latent variables."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import Model
from ppl_vae.numpyro.models.conditional import ConditionalModel
from ppl_vae.numpyro.models.networks.conditionals import (
    BernoulliNet,
    Conditional,
    FactorisedCategoricalNet,
)
from ppl_vae.numpyro.models.networks.priors import FactorisedBernoulli, FactorisedCategorical
from ppl_vae.shared.checks import (
    check_arguments,
    check_dims,
    check_layers,
    check_matrix,
    check_whole,
)


class _Layers(Model):
    """Layers of discrete latents: their networks, and the chains of draws down and up."""

    x_dim: int = eqx.field(static=True)
    n_categories: int = eqx.field(static=True)
    n_layers: int = eqx.field(static=True)
    prior: Conditional
    encoders: tuple[Conditional, ...]
    conditionals: tuple[Conditional, ...]
    decoder: Conditional

    def __init__(
        self,
        x_dim: int,
        z_dims: Sequence[int],
        hidden: Sequence[Sequence[int]],
        activation: str,
        n_categories: int,
        *,
        c_dim: int = 0,
        recognition: bool = True,
        prior: Conditional | None,
        decoder: Conditional | None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim)
        hidden = hidden if hidden or not isinstance(z_dims, Sequence) else ((),) * len(z_dims)
        check_layers(z_dims, hidden)
        check_whole("n_categories", n_categories, 2)
        self.x_dim, self.n_categories, self.n_layers = x_dim, n_categories, len(z_dims)
        sizes = [z_dim if n_categories == 2 else z_dim * n_categories for z_dim in z_dims]
        settings = (activation, n_categories)
        for_decoder, for_prior, *keys = jax.random.split(key, 2 * len(z_dims) + 1)
        if c_dim:
            layers = hidden[-1][::-1]
            self.prior = prior or _net(c_dim, z_dims[-1], layers, *settings, key=for_prior)
        else:
            self.prior = prior or _marginal(z_dims[-1], n_categories)
        self.encoders = tuple(  # q(z_1 | x), q(z_2 | z_1), ...
            _net(below + c_dim, z_dim, layers, *settings, key=keys.pop())
            for below, z_dim, layers in zip((x_dim, *sizes[:-1]), z_dims, hidden, strict=True)
            if recognition
        )
        self.conditionals = tuple(  # p(z_1 | z_2), p(z_2 | z_3), ...
            _net(above, z_dim, layers[::-1], *settings, key=keys.pop())
            for (z_dim, _), above, layers in zip(
                pairwise(z_dims), sizes[1:], hidden[1:], strict=True
            )
        )
        self.decoder = decoder or BernoulliNet(
            sizes[0], x_dim, hidden[0][::-1], activation, key=for_decoder
        )

    def downwards(self, *conditions: Array) -> Array:
        """Draws z_L given the conditions, z_{L-1} given z_L, ..., z_1: what networks see of z_1."""
        z = self.seen(numpyro.sample(f"z_{self.n_layers}", self.prior(*conditions)))
        for layer in range(self.n_layers - 1, 0, -1):
            z = self.seen(numpyro.sample(f"z_{layer}", self.conditionals[layer - 1](z)))
        return z

    def upwards(self, x: Array, *conditions: Array) -> None:
        """Draws z_1 given x, z_2 given z_1, ..., z_L, each given the conditions too."""
        z = x
        for layer, encoder in enumerate(self.encoders, start=1):
            others = [jnp.broadcast_to(c, (*z.shape[:-1], c.shape[-1])) for c in conditions]
            z = self.seen(numpyro.sample(f"z_{layer}", encoder(jnp.concatenate([z, *others], -1))))

    def seen(self, z: Array) -> Array:
        """What networks see of a layer: 0 and 1, or the one-hot vectors of its categories.

        Relaxed values (`Relaxed`) are floating, and of categories already such vectors.
        """
        if self.n_categories == 2:
            return z.astype(float)
        floating = jnp.issubdtype(z.dtype, jnp.floating)
        one_hot = z if floating else jax.nn.one_hot(z, self.n_categories)
        return one_hot.reshape(*one_hot.shape[:-2], -1)


def _net(
    in_dim: int,
    out_dim: int,
    hidden: Sequence[int],
    activation: str,
    n_categories: int,
    *,
    key: Array,
) -> Conditional:
    if n_categories == 2:
        return BernoulliNet(in_dim, out_dim, hidden, activation, key=key)
    return FactorisedCategoricalNet(in_dim, out_dim, n_categories, hidden, activation, key=key)


def _marginal(z_dim: int, n_categories: int) -> Conditional:
    if n_categories == 2:
        return FactorisedBernoulli(z_dim)
    return FactorisedCategorical(z_dim, n_categories)


class SBN(_Layers):
    """Sigmoid belief network with L layers of latent units, as `ppl_vae.models.SBN`.

        p(x, z)  = p(z_L) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1)                          (1)
        q(z | x) = q(z_1 | x) prod_{l>1} q(z_l | z_{l-1})                                 (2)

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dims: Numbers of units of z_1, ..., z_L.
        hidden: Hidden layers of q(z_1 | x), q(z_2 | z_1), ...: a sequence of sizes for each layer;
            p(x | z_1), p(z_1 | z_2), ... have them in reverse order. Without any, all are linear.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        n_categories: Number of values of a latent unit: 2 for 0 and 1, z_l of shape (n, z_dims[l]);
            with more z_l has the same shape and holds integers 0, ..., n_categories - 1.
        prior: p(z_L), called without inputs.
        decoder: p(x | z_1), called with z_1: 0 and 1, or one-hot vectors, one after another.
        key: Random key of the initial weights.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (200, 200, 200),
        hidden: Sequence[Sequence[int]] = (),
        activation: str = "tanh",
        n_categories: int = 2,
        *,
        prior: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        parts: dict[str, Any] = {"prior": prior, "decoder": decoder}
        super().__init__(x_dim, z_dims, hidden, activation, n_categories, **parts, key=key)

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            z_1 = self.downwards()
            numpyro.sample("x", self.decoder(z_1), obs=x)  # (1)

    def guide(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            self.upwards(x)  # (2)

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",))
        check_matrix("x", data[0], self.x_dim, *self.support(self.decoder))


class ConditionalSBN(_Layers, ConditionalModel):
    """Sigmoid belief network of x given a condition c, as `ppl_vae.models.ConditionalSBN`.

        p(x, z | c) = p(z_L | c) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1)                   (3)
        q(z | c, x) = q(z_1 | x, c) prod_{l>1} q(z_l | z_{l-1}, c)                        (4)

    and without `recognition`

        q(z | c, x) = p(z_L | c) prod_{l<L} p(z_l | z_{l+1})                              (5)

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes
            0, ..., c_dim - 1, which networks are given as one-hot vectors.
        z_dims: Numbers of units of z_1, ..., z_L, z_1 nearest to x.
        hidden: Hidden layers of q(z_1 | x, c), q(z_2 | z_1, c), ...: a sequence of sizes for each
            layer; p(x | z_1), p(z_1 | z_2), ... have them in reverse order, and p(z_L | c) those
            of the last in reverse order. Without any, all are linear.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        n_categories: Number of values of a latent unit, see `SBN`.
        recognition: Whether the guide has networks of its own, (4), or is the prior, (5).
        prior: p(z_L | c), called with c.
        decoder: p(x | z_1), called with z_1: 0 and 1, or one-hot vectors, one after another.
        key: Random key of the initial weights.
    """

    recognition: bool = eqx.field(static=True)

    def __init__(
        self,
        x_dim: int = 392,
        c_dim: int = 392,
        z_dims: Sequence[int] = (200, 200),
        hidden: Sequence[Sequence[int]] = (),
        activation: str = "tanh",
        n_categories: int = 2,
        recognition: bool = True,
        *,
        prior: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_whole("c_dim", c_dim, 1)
        parts: dict[str, Any] = {"c_dim": c_dim, "recognition": recognition}
        parts |= {"prior": prior, "decoder": decoder}
        super().__init__(x_dim, z_dims, hidden, activation, n_categories, **parts, key=key)
        self.c_dim, self.recognition = c_dim, recognition

    def model(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            z_1 = self.downwards(self.vectors(c))
            self.observe(self.decoder(z_1), x, mask)  # (3)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            if self.recognition:
                self.upwards(self.counted(x, mask), self.vectors(c))  # (4)
            else:
                self.downwards(self.vectors(c))  # (5)

    def check(self, *data: Any) -> None:
        self.check_conditioned(self.decoder, *data)
