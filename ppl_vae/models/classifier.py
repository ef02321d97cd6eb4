"""A classifier as a model without latent variables."""

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.models.base import ClassifierMixin, Model
from ppl_vae.models.networks.conditionals import CategoricalNet
from ppl_vae.shared.checks import check_arguments, check_dims, check_labels, check_matrix


class Classifier(ClassifierMixin, Model):
    """p(y | x) = Categorical(softmax(f(x))): M2's q(y | x), to be trained on labels alone.

    There is no latent variable, so the guide is empty, log p(y | x) is its own bound, and
    `ELBO()` is maximum likelihood (the cross-entropy).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        hidden: Sizes of the hidden layers.
        activation: Of the hidden layers.
        classifier: p(y | x), called with x.
    """

    def __init__(
        self,
        x_dim: int = 784,
        n_classes: int = 10,
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
        *,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim)
        self.x_dim, self.n_classes = x_dim, n_classes
        self.classifier = classifier or CategoricalNet(x_dim, n_classes, hidden, activation)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", self.classifier(x), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pass

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",), ("x", "y"))
        check_matrix("x", data[0], self.x_dim)
        for y in data[1:]:
            check_labels("y", y, self.n_classes)
