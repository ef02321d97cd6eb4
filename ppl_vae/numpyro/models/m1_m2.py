"""Semi-supervised learning with M2 on top of M1."""

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
from ppl_vae.shared.checks import (
    check_arguments,
    check_dims,
    check_labels,
    check_layers,
    check_matrix,
)


class M1M2(ClassifierMixin, Model):
    """The stacked model M1+M2 as one pair, as `ppl_vae.models.M1M2`.

        p(x, z_1, y, z_2) = p(x | z_1) p(z_1 | y, z_2) p(y) p(z_2),   p(z_2) = N(0, I)     (1)
        q(z_1, y, z_2 | x) = q(z_1 | x) q(y | z_1) q(z_2 | z_1, y)                         (2)

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        z_dims: Sizes of z_1 and z_2.
        hidden: Hidden layers of q(z_1 | x), and those of q(y | z_1) and q(z_2 | z_1, y);
            p(x | z_1) and p(z_1 | y, z_2) have them in reverse order.
        activation: Of the hidden layers: "softplus", "tanh", "relu", ...; see `layers.ACTIVATIONS`.
        prior: p(z_2), called without inputs.
        encoder: q(z_1 | x), called with x; that of a trained `M1`, say.
        classifier: q(y | z_1), called with z_1.
        encoder_2: q(z_2 | z_1, y), called with z_1 and y as a one-hot vector.
        decoder_2: p(z_1 | y, z_2), called with z_2 and y as a one-hot vector.
        decoder: p(x | z_1), called with z_1.
        key: Random key of the initial weights.
    """

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
        """y as one-hot vectors, shape (*y.shape, n_classes)."""
        return jax.nn.one_hot(y, self.n_classes)

    def classify(self, x: Array) -> Any:
        """q(y | z_1) at the mean of q(z_1 | x)."""
        return self.classifier(self.encoder(x).mean)

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",), ("x", "y"))
        check_matrix("x", data[0], self.x_dim, *self.support(self.decoder))
        for y in data[1:]:
            check_labels("y", y, self.n_classes)
