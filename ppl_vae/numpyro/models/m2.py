"""See `ppl_vae.models.m2`."""

from collections.abc import Sequence

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
from ppl_vae.shared.checks import check_dims


class M2(ClassifierMixin, Model):
    """See `ppl_vae.models.M2`; takes a keyword-only `key`."""

    x_dim: int = eqx.field(static=True)
    n_classes: int = eqx.field(static=True)
    label_prior: Conditional
    prior: Conditional
    classifier: Conditional
    encoder: Conditional
    decoder: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        n_classes: int = 10,
        z_dim: int = 50,
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
        *,
        prior: Conditional | None = None,
        classifier: Conditional | None = None,
        encoder: Conditional | None = None,
        decoder: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim, z_dim=z_dim)
        keys = jax.random.split(key, 3)
        self.x_dim, self.n_classes = x_dim, n_classes
        self.label_prior = UniformCategorical(n_classes)
        self.prior = prior or StandardNormal(z_dim)
        self.classifier = classifier or CategoricalNet(
            x_dim, n_classes, hidden, activation, key=keys[0]
        )
        self.encoder = encoder or DiagNormalNet(
            (x_dim, n_classes), z_dim, hidden, activation, key=keys[1]
        )
        self.decoder = decoder or BernoulliNet(
            (z_dim, n_classes), x_dim, hidden[::-1], activation, key=keys[2]
        )

    def model(self, x: Array, y: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", self.label_prior(), obs=y, infer={"enumerate": "parallel"})
            z = numpyro.sample("z", self.prior())  # (2)
            numpyro.sample("x", self.decoder(z, self.one_hot(y)), obs=x)

    def guide(self, x: Array, y: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            if y is None:
                y = numpyro.sample("y", self.classifier(x), infer={"enumerate": "parallel"})
            numpyro.sample("z", self.encoder(x, self.one_hot(y)))  # (4)

    def one_hot(self, y: Array) -> Array:
        """See `ppl_vae.models.M2.one_hot`."""
        return jax.nn.one_hot(y, self.n_classes)
