"""Semi-supervised learning with a label among the latent variables."""

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
from ppl_vae.shared.checks import check_arguments, check_dims, check_labels, check_matrix


class M2(ClassifierMixin, Model):
    """The semi-supervised model M2, as `ppl_vae.models.M2`.

        p(x, y, z)  = p(y) p(z) p(x | y, z),  p(y) uniform, p(z) = N(0, I)     (2)
        q(y, z | x) = q(y | x) q(z | x, y)                                     (4)

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        z_dim: Size of the latent variable ("style").
        hidden: Hidden layers of the encoder and the classifier; the decoder's are reversed.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        prior: p(z), called without inputs.
        classifier: q(y | x), called with x.
        encoder: q(z | x, y), called with x and y as a one-hot vector.
        decoder: p(x | z, y), called with z and y as a one-hot vector.
        key: Random key of the initial weights.
    """

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
        """y as one-hot vectors, shape (*y.shape, n_classes)."""
        return jax.nn.one_hot(y, self.n_classes)

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",), ("x", "y"))
        check_matrix("x", data[0], self.x_dim, *self.support(self.decoder))
        for y in data[1:]:
            check_labels("y", y, self.n_classes)
