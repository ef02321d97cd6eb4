"""A classifier as a model without latent variables."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import ClassifierMixin, Model
from ppl_vae.numpyro.models.networks.conditionals import CategoricalNet, Conditional
from ppl_vae.shared.checks import check_arguments, check_dims, check_labels, check_matrix


class Classifier(ClassifierMixin, Model):
    """p(y | x) = Categorical(softmax(f(x))), as `ppl_vae.models.Classifier`.

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        hidden: Sizes of the hidden layers.
        activation: Of the hidden layers.
        classifier: p(y | x), called with x.
        key: Random key of the initial weights.
    """

    x_dim: int = eqx.field(static=True)
    n_classes: int = eqx.field(static=True)
    classifier: Conditional

    def __init__(
        self,
        x_dim: int = 784,
        n_classes: int = 10,
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
        *,
        classifier: Conditional | None = None,
        key: Array,
    ) -> None:
        check_dims(x_dim=x_dim)
        self.x_dim, self.n_classes = x_dim, n_classes
        self.classifier = classifier or CategoricalNet(
            x_dim, n_classes, hidden, activation, key=key
        )

    def model(self, x: Array, y: Array | None = None) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", self.classifier(x), obs=y)

    def guide(self, x: Array, y: Array | None = None) -> None:
        pass

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",), ("x", "y"))
        check_matrix("x", data[0], self.x_dim)
        for y in data[1:]:
            check_labels("y", y, self.n_classes)
