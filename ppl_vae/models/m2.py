"""Semi-supervised learning with the label as a latent variable."""

from collections.abc import Sequence

import pyro
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.models.base import ClassifierMixin, Model
from ppl_vae.models.networks.conditionals import BernoulliNet, CategoricalNet, DiagNormalNet
from ppl_vae.models.networks.priors import StandardNormal, UniformCategorical
from ppl_vae.shared.checks import check_dims


class M2(ClassifierMixin, Model):
    """Semi-supervised model M2, p(y) p(z) p(x | y, z), whose label is latent where it is unknown.

        p(x, y, z)  = p(y) p(z) p(x | y, z),  p(y) uniform, p(z) = N(0, I)     (2)
        q(y, z | x) = q(y | x) q(z | x, y)                                     (4)

    The label y is observed where it is known, and otherwise a latent variable that objectives sum
    over (`infer={"enumerate": "parallel"}`).

    References:
        Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models",
        NeurIPS 2014, arXiv:1406.5298, section 2.2 and equations 2 and 4; the objective is
        `ppl_vae.inference.SemiSupervised`.

    Differs from the paper:
        q(z | x, y) has a scale that depends on y as well as on x (as in the authors' code);
        p(y) is uniform, and not learned; torch's initialisation (the authors' code: scale 0.001).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        z_dim: Size of the latent variable ("style").
        hidden: Sizes of the hidden layers of encoder and classifier; the decoder has them in
            reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        prior: p(z), called without inputs.
        classifier: q(y | x), called with x.
        encoder: q(z | x, y), called with x and y as a one-hot vector.
        decoder: p(x | z, y), called with z and y as a one-hot vector.
    """

    def __init__(
        self,
        x_dim: int = 784,
        n_classes: int = 10,
        z_dim: int = 50,
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
        *,
        prior: nn.Module | None = None,
        classifier: nn.Module | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim, z_dim=z_dim)
        self.x_dim, self.n_classes = x_dim, n_classes
        self.label_prior = UniformCategorical(n_classes)
        self.prior = prior or StandardNormal(z_dim)
        self.classifier = classifier or CategoricalNet(x_dim, n_classes, hidden, activation)
        self.encoder = encoder or DiagNormalNet((x_dim, n_classes), z_dim, hidden, activation)
        self.decoder = decoder or BernoulliNet((z_dim, n_classes), x_dim, hidden[::-1], activation)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.label_prior(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.prior())  # (2)
            pyro.sample("x", self.decoder(z, self.one_hot(y)), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classifier(x), infer={"enumerate": "parallel"})
            pyro.sample("z", self.encoder(x, self.one_hot(y)))  # (4)

    def one_hot(self, y: Tensor) -> Tensor:
        """Return y as one-hot vectors in the model's floating type: (*y.shape, n_classes)."""
        return F.one_hot(y, self.n_classes).to(self.label_prior.logits.dtype)
