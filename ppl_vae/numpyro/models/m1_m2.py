"""See `ppl_vae.models.m1_m2`."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import ClassifierMixin, Model
from ppl_vae.numpyro.models.networks.conditionals import (
    BernoulliNet,
    CategoricalNet,
    Conditional,
    DiagNormalNet,
)
from ppl_vae.numpyro.models.networks.priors import StandardNormal, UniformCategorical
from ppl_vae.shared.checks import check_dims, check_layers


class M1M2(ClassifierMixin, Model):
    """See `ppl_vae.models.M1M2`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    n_classes: int = eqx.field(static=True)
    label_prior: Conditional
    prior: Conditional
    encoder: Conditional
    classifier: Conditional
    encoder_2: Conditional
    decoder_2: Conditional
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        n_classes: int = 10,
        z_dims: Sequence[int] = (50, 50),
        hidden: Sequence[Sequence[int]] = ((600, 600), (500,)),
        activation: str = "softplus",
        *,
        prior: Conditional | None = None,
        encoder: Conditional | None = None,
        classifier: Conditional | None = None,
        encoder_2: Conditional | None = None,
        decoder_2: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        if len(z_dims) != 2:
            raise ValueError(f"z_dims should be the sizes of z_1 and z_2, was {z_dims!r}")
        keys = jax.random.split(key, 5)
        (one, two), (lower, upper) = z_dims, hidden
        self.x_dim, self.n_classes = x_dim, n_classes
        self.label_prior = UniformCategorical(n_classes)
        self.prior = prior or StandardNormal(two)
        self.encoder = encoder or DiagNormalNet(x_dim, one, lower, activation, key=keys[0])
        self.classifier = classifier or CategoricalNet(
            one, n_classes, upper, activation, key=keys[1]
        )
        self.encoder_2 = encoder_2 or DiagNormalNet(
            (one, n_classes), two, upper, activation, key=keys[2]
        )
        self.decoder_2 = decoder_2 or DiagNormalNet(
            (two, n_classes), one, upper[::-1], activation, key=keys[3]
        )
        self.decoder = decoder or BernoulliNet(one, x_dim, lower[::-1], activation, key=keys[4])

    def model(self, x: Array, y: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", self.label_prior(), obs=y, infer={"enumerate": "parallel"})
            z_2 = numpyro.sample("z_2", self.prior())
            z_1 = numpyro.sample("z_1", self.decoder_2(z_2, self.one_hot(y)))
            numpyro.sample("x", self.decoder(z_1), obs=x)  # (1)

    def guide(self, x: Array, y: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            z_1 = numpyro.sample("z_1", self.encoder(x))
            if y is None:
                y = numpyro.sample("y", self.classifier(z_1), infer={"enumerate": "parallel"})
            numpyro.sample("z_2", self.encoder_2(z_1, self.one_hot(y)))  # (2)

    def one_hot(self, y: Array) -> Array:
        """See `ppl_vae.models.M1M2.one_hot`."""
        return jax.nn.one_hot(y, self.n_classes)

    def classify(self, x: Array) -> Any:
        """See `ppl_vae.models.M1M2.classify`."""
        return self.classifier(self.encoder(x).mean)
