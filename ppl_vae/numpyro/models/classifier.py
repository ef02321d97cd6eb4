"""See `ppl_vae.models.classifier`."""

from collections.abc import Sequence

import equinox as eqx
import numpyro
from jax import Array

from ppl_vae.numpyro.models.base import ClassifierMixin, Model
from ppl_vae.numpyro.models.networks.conditionals import CategoricalNet, Conditional
from ppl_vae.shared.checks import check_dims


class Classifier(ClassifierMixin, Model):
    """See `ppl_vae.models.Classifier`; takes a keyword-only `key`."""

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
