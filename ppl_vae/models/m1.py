"""The VAE as a feature extractor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.models.base import evaluating
from ppl_vae.models.vae import VAE
from ppl_vae.shared.checks import to_mean


class M1(VAE):
    """Latent-feature model M1: a VAE whose latent means are features for any classifier.

        p(x, z)  = p(z) p(x | z),    p(z) = N(0, I)                     (1)
        q(z | x) = N(mu(x), diag sigma(x)^2)                            (3)

    The VAE is trained on all data, `fit(m1, x)`, and any scikit-learn classifier on the features of
    the labelled ones:

        svm = sklearn.svm.SVC().fit(m1.features(x_labelled)[0], y_labelled)
        y = svm.predict(m1.features(x)[0])

    `ppl_vae.data.NormalFeatures(*m1.features(x))` are draws of z as the data of another model, see
    `M1M2`.

    References:
        Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models",
        NeurIPS 2014, arXiv:1406.5298, section 2 ("latent-feature discriminative model") and
        equations 1 and 3; the objective, equation 5, is `ppl_vae.inference.ELBO`.

    Differs from the paper:
        The classifier is given the means of q(z | x) (the paper: draws, for a transductive SVM);
        no prior on the weights; torch's initialisation (the authors' code: scale 0.001).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dim: Size of the latent variable, the number of features.
        hidden: Sizes of the encoder's hidden layers; the decoder has them in reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        prior: p(z), called without inputs.
        encoder: q(z | x), called with x.
        decoder: p(x | z), called with z.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dim: int = 50,
        hidden: Sequence[int] = (600, 600),
        activation: str = "softplus",
        *,
        prior: nn.Module | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(
            x_dim, z_dim, hidden, activation, prior=prior, encoder=encoder, decoder=decoder
        )

    @torch.no_grad()
    def features(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return mean and scale of q(z | x), each (n, z_dim), for x of shape (n, x_dim).

        Resampled data (`ppl_vae.data.Dynamic`) are replaced by their means.
        """
        x = to_mean(x)
        self.check(x)
        with evaluating(self):
            q = self.encoder(*self.as_tensors(x))  # (3)
        return q.mean, q.stddev
