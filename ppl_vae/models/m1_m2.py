"""Semi-supervised learning with M2 on top of M1."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.models.base import ClassifierMixin, Model
from ppl_vae.models.networks.conditionals import BernoulliNet, CategoricalNet, DiagNormalNet
from ppl_vae.models.networks.priors import StandardNormal, UniformCategorical
from ppl_vae.shared.checks import check_dims, check_layers


class M1M2(ClassifierMixin, Model):
    """Stacked model M1+M2, p(y) p(z_2) p(z_1 | y, z_2) p(x | z_1), trained end to end.

        p(x, z_1, y, z_2) = p(x | z_1) p(z_1 | y, z_2) p(y) p(z_2),   p(z_2) = N(0, I)     (1)
        q(z_1, y, z_2 | x) = q(z_1 | x) q(y | z_1) q(z_2 | z_1, y)                         (2)

    p(y) is uniform. The label y is observed where it is known and summed over elsewhere, see
    `ppl_vae.inference.SemiSupervised`. Predictions are q(y | z_1) at the mean of q(z_1 | x).

    The paper trains layer by layer: first M1, then M2 on draws of M1's q(z_1 | x), resampled in
    every batch, without the dimensions of z_1 that M1 does not use. This needs no further model,
    only `NormalFeatures` as the data of `M2`:

        fit(m1, x)
        features = NormalFeatures(*m1.features(x))       # of ppl_vae.data
        active = features.active()
        n_active = int(active.sum())
        decoder = DiagNormalNet((50, 10), n_active, (500,))
        m2 = M2(n_active, decoder=decoder)
        fit(m2, (features.select(active), y), SemiSupervised())
        m2.predict(NormalFeatures(*m1.features(x_test)).select(active))

    It equals this pair with M1's networks frozen: the bound is then M2's at a draw of z_1, plus
    log p(x | z_1) - log q(z_1 | x), which is constant. As data, q(z_1 | x) is computed once instead
    of in every batch, and its dimensions can be selected.

    References:
        Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models",
        NeurIPS 2014, arXiv:1406.5298, section 2 ("stacked generative semi-supervised model").

    Differs from the paper:
        All layers are trained together; q(z_2 | z_1, y) has a scale that depends on y as well as
        on z_1 (as in the authors' code); p(y) is uniform, and not learned; no prior on the
        weights; torch's initialisation (the authors' code: scale 0.001).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        n_classes: Number of classes; labels have shape (n,) and values 0, ..., n_classes - 1.
        z_dims: Sizes of z_1 and z_2.
        hidden: Sizes of the hidden layers of q(z_1 | x), and those of q(y | z_1) and
            q(z_2 | z_1, y); p(x | z_1) and p(z_1 | y, z_2) have them in reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        prior: p(z_2), called without inputs.
        encoder: q(z_1 | x), called with x, for example that of a trained `M1`.
        classifier: q(y | z_1), called with z_1.
        encoder_2: q(z_2 | z_1, y), called with z_1 and y as a one-hot vector.
        decoder_2: p(z_1 | y, z_2), called with z_2 and y as a one-hot vector.
        decoder: p(x | z_1), called with z_1. `BernoulliNet` (the default) for pixels in [0, 1],
            `DiagNormalNet` for real numbers.
    """

    def __init__(
        self,
        x_dim: int = 784,
        n_classes: int = 10,
        z_dims: Sequence[int] = (50, 50),
        hidden: Sequence[Sequence[int]] = ((600, 600), (500,)),
        activation: str = "softplus",
        *,
        prior: nn.Module | None = None,
        encoder: nn.Module | None = None,
        classifier: nn.Module | None = None,
        encoder_2: nn.Module | None = None,
        decoder_2: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        if len(z_dims) != 2:
            raise ValueError(f"z_dims should be the sizes of z_1 and z_2, was {z_dims!r}")
        (one, two), (lower, upper) = z_dims, hidden
        self.x_dim, self.n_classes = x_dim, n_classes
        self.label_prior = UniformCategorical(n_classes)
        self.prior = prior or StandardNormal(two)
        self.encoder = encoder or DiagNormalNet(x_dim, one, lower, activation)
        self.classifier = classifier or CategoricalNet(one, n_classes, upper, activation)
        self.encoder_2 = encoder_2 or DiagNormalNet((one, n_classes), two, upper, activation)
        self.decoder_2 = decoder_2 or DiagNormalNet((two, n_classes), one, upper[::-1], activation)
        self.decoder = decoder or BernoulliNet(one, x_dim, lower[::-1], activation)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.label_prior(), obs=y, infer={"enumerate": "parallel"})
            z_2 = pyro.sample("z_2", self.prior())
            z_1 = pyro.sample("z_1", self.decoder_2(z_2, self.one_hot(y)))
            pyro.sample("x", self.decoder(z_1), obs=x)  # (1)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z_1 = pyro.sample("z_1", self.encoder(x))
            if y is None:
                y = pyro.sample("y", self.classifier(z_1), infer={"enumerate": "parallel"})
            pyro.sample("z_2", self.encoder_2(z_1, self.one_hot(y)))  # (2)

    def one_hot(self, y: Tensor) -> Tensor:
        """Return y as one-hot vectors in the model's floating type: (*y.shape, n_classes)."""
        return F.one_hot(y, self.n_classes).to(self.label_prior.logits.dtype)

    def classify(self, x: Tensor) -> Any:
        """Return q(y | z_1) at the mean of q(z_1 | x)."""
        return self.classifier(self.encoder(x).mean)
