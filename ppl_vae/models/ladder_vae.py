"""The ladder variational autoencoder."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.models.distributions.normal import LogVarNormal, log_var_of
from ppl_vae.models.networks.conditionals import BernoulliNet, DiagNormalNet
from ppl_vae.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_layers


class LadderVAE(Model):
    """Ladder variational autoencoder: L layers of latent variables, bottom-up and top-down guide.

        p(x, z)  = p(z_L) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1),    p(z_L) = N(0, I)     (1)
        d_l      = MLP(d_{l-1}),    d_0 = x                                               (2)
        n_l      = N(mu_l(d_l), diag sigma_l(d_l)^2)                                      (3)
        q(z | x) = n_L(z_L) prod_{l<L} q(z_l | z_{l+1}, x)                                (4)
        q(z_l | z_{l+1}, x) = merge(n_l, p(z_l | z_{l+1}))                                (5)

    The diagonal normal p(z_l | z_{l+1}) is shared by model and guide. `merge` is the product of two
    normal densities, which weights the bottom-up and the top-down estimate by their precisions.

    With `batch_norm` a training step runs p(z_l | z_{l+1}) twice on the same z, in guide and model.
    The results are equal, but its running statistics are updated twice.

    References:
        Sønderby, Raiko, Maaløe, Sønderby & Winther, "Ladder variational autoencoders", NeurIPS
        2016, arXiv:1602.02282. Sizes are those of its experiments.

    Differs from the paper:
        Variances are exp of a linear map (the paper: softplus), as elsewhere in this library.
        torch's initialisation.
        Only hidden layers are normalised (the authors' code: mu_l and sigma_l too, all but x), and
        evaluation uses running averages (the authors' code: statistics of the training set).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dims: Sizes of z_1, ..., z_L, z_1 the nearest to the data.
        hidden: Sizes of the hidden layers of (2) for l = 1, ..., L: one sequence for each layer;
            p(x | z_1), p(z_1 | z_2), ... have them in reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        batch_norm: Whether hidden layers are normalised, those of `encoders`, `conditionals` and
            the default decoder; see `layers.BatchNorm`.
        prior: p(z_L), called without inputs.
        decoder: p(x | z_1), called with z_1.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (64, 32, 16, 8, 4),
        hidden: Sequence[Sequence[int]] = ((512, 512), (256, 256), (128, 128), (64, 64), (32, 32)),
        activation: str = "leaky_relu",
        batch_norm: bool = True,
        *,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        self.x_dim, self.n_layers = x_dim, len(z_dims)
        self.prior = prior or StandardNormal(z_dims[-1])
        self.encoders = nn.ModuleList()  # n_1, n_2, ..., each with its own trunk
        d_dim = x_dim
        for z_dim, sizes in zip(z_dims, hidden, strict=True):
            self.encoders.append(DiagNormalNet(d_dim, z_dim, sizes, activation, batch_norm))
            d_dim = sizes[-1] if sizes else d_dim
        self.conditionals = nn.ModuleList(  # p(z_1 | z_2), p(z_2 | z_3), ...
            DiagNormalNet(above, z_dim, sizes[::-1], activation, batch_norm)
            for above, z_dim, sizes in zip(z_dims[1:], z_dims[:-1], hidden[1:], strict=True)
        )
        self.decoder = decoder or BernoulliNet(
            z_dims[0], x_dim, hidden[0][::-1], activation, batch_norm
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{self.n_layers}", self.prior())
            for layer in range(self.n_layers - 1, 0, -1):
                z = pyro.sample(f"z_{layer}", self.conditionals[layer - 1](z))  # (1)
            pyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Tensor) -> None:
        *below, top = self.bottom_up(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{self.n_layers}", top)  # (4)
            for layer in range(self.n_layers - 1, 0, -1):
                q = merge(below[layer - 1], self.conditionals[layer - 1](z))  # (5)
                z = pyro.sample(f"z_{layer}", q)

    def bottom_up(self, x: Tensor) -> list[dist.Independent]:
        """Return n_1, ..., n_L, the bottom-up estimates of the layers, x of shape (..., x_dim)."""
        estimates, d = [], x
        encoder: Any
        for encoder in self.encoders:
            d = encoder.trunk(d)  # (2)
            estimates.append(encoder.head(d))  # (3)
        return estimates


def merge(a: dist.Independent, b: dist.Independent) -> dist.Independent:
    """Return the normalised product of two diagonal normal densities; batch shapes broadcast.

    1 / sigma^2 = 1 / sigma_a^2 + 1 / sigma_b^2,
    mu = sigma^2 (mu_a / sigma_a^2 + mu_b / sigma_b^2).

    The computation uses log_var = log sigma^2: squared precisions would overflow in the gradient.
    """
    a, b = a.base_dist, b.base_dist
    log_var = log_var_of(a)
    log_ratio = log_var - log_var_of(b)
    loc = a.loc * torch.sigmoid(-log_ratio) + b.loc * torch.sigmoid(log_ratio)
    return dist.Independent(LogVarNormal(loc, log_var - F.softplus(log_ratio)), 1)
