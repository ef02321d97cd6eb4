"""See `ppl_vae.models.sbn`."""

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
from ppl_vae.shared.checks import check_dims, check_layers, check_whole


class _DiscreteLayers(Model):
    """See `ppl_vae.models.sbn._DiscreteLayers`."""

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
        shared = (activation, n_categories)
        for_decoder, for_prior, *keys = jax.random.split(key, 2 * len(z_dims) + 1)
        if c_dim:
            layers = hidden[-1][::-1]
            self.prior = prior or _conditional(c_dim, z_dims[-1], layers, *shared, key=for_prior)
        else:
            self.prior = prior or _prior(z_dims[-1], n_categories)
        self.encoders = tuple(  # q(z_1 | x), q(z_2 | z_1), ...
            _conditional(below + c_dim, z_dim, layers, *shared, key=keys.pop())
            for below, z_dim, layers in zip((x_dim, *sizes[:-1]), z_dims, hidden, strict=True)
            if recognition
        )
        self.conditionals = tuple(  # p(z_1 | z_2), p(z_2 | z_3), ...
            _conditional(above, z_dim, layers[::-1], *shared, key=keys.pop())
            for (z_dim, _), above, layers in zip(
                pairwise(z_dims), sizes[1:], hidden[1:], strict=True
            )
        )
        self.decoder = decoder or BernoulliNet(
            sizes[0], x_dim, hidden[0][::-1], activation, key=for_decoder
        )

    def sample_top_down(self, *conditions: Array) -> Array:
        """See `ppl_vae.models.sbn._DiscreteLayers.sample_top_down`."""
        z = self.as_input(numpyro.sample(f"z_{self.n_layers}", self.prior(*conditions)))
        for layer in range(self.n_layers - 1, 0, -1):
            z = self.as_input(numpyro.sample(f"z_{layer}", self.conditionals[layer - 1](z)))
        return z

    def sample_bottom_up(self, x: Array, *conditions: Array) -> None:
        """See `ppl_vae.models.sbn._DiscreteLayers.sample_bottom_up`."""
        z = x
        for layer, encoder in enumerate(self.encoders, start=1):
            others = [jnp.broadcast_to(c, (*z.shape[:-1], c.shape[-1])) for c in conditions]
            z = self.as_input(
                numpyro.sample(f"z_{layer}", encoder(jnp.concatenate([z, *others], -1)))
            )

    def as_input(self, z: Array) -> Array:
        """See `ppl_vae.models.sbn._DiscreteLayers.as_input`."""
        if self.n_categories == 2:
            return z.astype(float)
        floating = jnp.issubdtype(z.dtype, jnp.floating)
        one_hot = z if floating else jax.nn.one_hot(z, self.n_categories)
        return one_hot.reshape(*one_hot.shape[:-2], -1)


def _conditional(
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


def _prior(z_dim: int, n_categories: int) -> Conditional:
    if n_categories == 2:
        return FactorisedBernoulli(z_dim)
    return FactorisedCategorical(z_dim, n_categories)


class SBN(_DiscreteLayers):
    """See `ppl_vae.models.SBN`; takes a keyword-only `key`."""

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
        settings: dict[str, Any] = {"prior": prior, "decoder": decoder}
        super().__init__(x_dim, z_dims, hidden, activation, n_categories, **settings, key=key)

    def model(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            z_1 = self.sample_top_down()
            numpyro.sample("x", self.decoder(z_1), obs=x)  # (1)

    def guide(self, x: Array) -> None:
        with numpyro.plate("data", len(x)):
            self.sample_bottom_up(x)  # (2)


class ConditionalSBN(_DiscreteLayers, ConditionalModel):
    """See `ppl_vae.models.ConditionalSBN`; takes a keyword-only `key`."""

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
        settings: dict[str, Any] = {"c_dim": c_dim, "recognition": recognition}
        settings |= {"prior": prior, "decoder": decoder}
        super().__init__(x_dim, z_dims, hidden, activation, n_categories, **settings, key=key)
        self.c_dim, self.recognition = c_dim, recognition

    def model(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            z_1 = self.sample_top_down(self.vectors(c))
            self.observe(self.decoder(z_1), x, mask)  # (3)

    def guide(self, c: Array, x: Array, mask: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            if self.recognition:
                self.sample_bottom_up(self.zero_outside_mask(x, mask), self.vectors(c))  # (4)
            else:
                self.sample_top_down(self.vectors(c))  # (5)
