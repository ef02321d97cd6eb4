"""The variational autoencoder with a hierarchical prior."""

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.models.networks.conditionals import BernoulliNet, DiagNormalNet
from ppl_vae.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_hidden


class VHP(Model):
    """Variational autoencoder with a learned hierarchical prior p(zeta) p(z | zeta).

        p(x, z, zeta)  = p(zeta) p(z | zeta) p(x | z),    p(zeta) = N(0, I)               (1)
        q(z, zeta | x) = q(z | x) q(zeta | z)                                             (2)

    p(z | zeta), q(z | x) and q(zeta | z) are diagonal normal. The prior of z is the continuous
    mixture p(z) = int p(z | zeta) p(zeta) dzeta, which q(zeta | z) bounds from below. The paper's
    objective is `GECO(tolerance, inner=("zeta",), k=...)`; its interpolation along the prior is
    `ppl_vae.inference.path_along_graph`.

    References:
        Klushyn, Chen, Kurle, Cseke & van der Smagt, "Learning hierarchical priors in VAEs",
        NeurIPS 2019, arXiv:1905.04982 (VHP: variational hierarchical prior).

    Differs from the paper:
        All networks have the same sizes and activation, which are not those of one of the paper's
        experiments; torch's initialisation.

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dim: Size of z.
        zeta_dim: Size of zeta.
        hidden: Sizes of the hidden layers of q(z | x) and of q(zeta | z); p(x | z) and p(z | zeta)
            have them in reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        hyperprior: p(zeta), called without inputs.
        prior: p(z | zeta), called with zeta.
        encoder: q(z | x), called with x.
        zeta_encoder: q(zeta | z), called with z.
        decoder: p(x | z), called with z. `BernoulliNet` (the default) for pixels in [0, 1],
            `DiagNormalNet(z_dim, x_dim, hidden)` for real numbers.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dim: int = 32,
        zeta_dim: int = 32,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        hyperprior: nn.Module | None = None,
        prior: nn.Module | None = None,
        encoder: nn.Module | None = None,
        zeta_encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim, z_dim=z_dim, zeta_dim=zeta_dim)
        check_hidden(hidden)
        self.x_dim = x_dim
        self.hyperprior = hyperprior or StandardNormal(zeta_dim)
        self.prior = prior or DiagNormalNet(zeta_dim, z_dim, hidden[::-1], activation)
        self.encoder = encoder or DiagNormalNet(x_dim, z_dim, hidden, activation)
        self.zeta_encoder = zeta_encoder or DiagNormalNet(z_dim, zeta_dim, hidden, activation)
        self.decoder = decoder or BernoulliNet(z_dim, x_dim, hidden[::-1], activation)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            zeta = pyro.sample("zeta", self.hyperprior())
            z = pyro.sample("z", self.prior(zeta))  # (1)
            pyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.encoder(x))
            pyro.sample("zeta", self.zeta_encoder(z))  # (2)
