"""A classifier as a model without latent variables."""

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from ppl_vae.models.base import ClassifierMixin, Model
from ppl_vae.models.networks.conditionals import CategoricalNet
from ppl_vae.shared.checks import check_dims


class Classifier(ClassifierMixin, Model):
    """Classifier p(y | x), the supervised baseline of `M2`.

        p(y | x) = Categorical(softmax(f(x)))

    It is the q(y | x) of `M2`, trained on labelled data alone. There is no latent variable, so the
    guide is empty, log p(y | x) is its own bound, and `ELBO()` is maximum likelihood (the
    cross-entropy).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
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
