"""The variational autoencoder."""

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.models.networks.conditionals import BernoulliNet, DiagNormalNet
from ppl_vae.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims


class VAE(Model):
    """Variational autoencoder p(z) p(x | z) with Bernoulli or Gaussian pixels.

    Any prior, encoder and decoder can be injected.

        p(x, z)  = p(z) p(x | z),    p(z) = N(0, I)                     (1)
        q(z | x) = N(mu(x), diag sigma(x)^2)                            (2)

    References:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114, section 3
        and appendix C (Bernoulli and Gaussian multilayer perceptrons).

    Differs from the paper:
        Any number of hidden layers, softplus by default (the paper: one layer, tanh);
        torch's initialisation (the paper: N(0, 0.01)).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dim: Size of the latent variable.
        hidden: Sizes of the encoder's hidden layers; the decoder has them in reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        prior: p(z), called without inputs.
        encoder: q(z | x), called with x.
        decoder: p(x | z), called with z. `BernoulliNet` (the default) for pixels in [0, 1],
            `DiagNormalNet(z_dim, x_dim, hidden)` for real numbers.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        activation: str = "softplus",
        *,
        prior: nn.Module | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim, z_dim=z_dim)
        self.x_dim = x_dim
        self.prior = prior or StandardNormal(z_dim)
        self.encoder = encoder or DiagNormalNet(x_dim, z_dim, hidden, activation)
        self.decoder = decoder or BernoulliNet(z_dim, x_dim, hidden[::-1], activation)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())  # (1)
            pyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encoder(x))  # (2)
