"""The deep latent Gaussian model."""

from collections.abc import Sequence
from itertools import chain, pairwise

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.models.networks.conditionals import BernoulliNet, DiagNormalNet
from ppl_vae.models.networks.layers import MLP, Network
from ppl_vae.models.networks.posteriors import RankOneNormalNet
from ppl_vae.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_layers

COVARIANCES = {"diagonal": DiagNormalNet, "rank_one": RankOneNormalNet}


class DLGM(Model):
    """Deep latent Gaussian model with L layers of noise, and a diagonal or rank-one guide.

        xi_l ~ N(0, I),  l = 1, ..., L                                        (1)
        h_L = G_L xi_L                                                        (2)
        h_l = T_l(h_{l+1}) + G_l xi_l,  l = 1, ..., L - 1                     (3)
        x ~ pi(x | T_0(h_1))                                                  (4)
        q(xi | x) = prod_l N(mu_l(x), C_l(x))                                 (5)

    C_l is diagonal, or has the precision C_l^-1 = diag(d_l) + u_l u_l^T (`RankOneNormal`). The
    sites are `xi_1`, nearest the data, to `xi_L`, independent in the guide; h_1, ..., h_L are
    functions of them, not sites.

    References:
        Rezende, Mohamed & Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep
        Generative Models", ICML 2014, arXiv:1401.4082.

    Differs from the paper:
        No prior on the weights, p(theta) = N(0, kappa I), and no noise on the inputs of q;
        every layer has its own recognition network, without weights shared between layers;
        h_l has the size of xi_l, so G_l is square; the diagonal q has log variances, not log
        precisions (the same distributions); torch's initialisation.

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dims: Sizes of xi_1, ..., xi_L (and of h_1, ..., h_L), nearest the data first.
        hidden: Sizes of the hidden layers on the way up from x to h_1, from h_1 to h_2, ...: one
            sequence for each layer. The encoder of xi_l has the first l of them one after another;
            T_0, T_1, ... have one each, in reverse order (an empty one makes T_l linear).
        covariance: Covariance of q: "rank_one" or "diagonal".
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        batch_norm: Whether hidden layers are normalised; see `layers.BatchNorm`.
        transforms: T_1, ..., T_{L-1}, called with h_{l+1}; each returns the mean of h_l.
        encoders: N(mu_l(x), C_l(x)) for l = 1, ..., L, called with x.
        decoder: pi(x | T_0(h_1)), called with h_1: T_0 and pi together. `BernoulliNet` (the
            default) for pixels in [0, 1], `DiagNormalNet(z_dims[0], x_dim, hidden[0])` for reals.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (200,),
        hidden: Sequence[Sequence[int]] = ((200, 200),),
        covariance: str = "rank_one",
        activation: str = "relu",
        batch_norm: bool = False,
        *,
        transforms: Sequence[nn.Module] | None = None,
        encoders: Sequence[nn.Module] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        n_layers = len(z_dims)
        for name, given in (("transforms", transforms), ("encoders", encoders)):
            n = n_layers - (name == "transforms")
            if given is not None and len(given) != n:
                raise ValueError(f"{name} should be {n} networks, one per layer, had {len(given)}")
        if covariance not in tuple(COVARIANCES):
            raise ValueError(
                f"covariance should be one of {tuple(COVARIANCES)}, was {covariance!r}"
            )
        self.x_dim = x_dim
        self.priors = nn.ModuleList(StandardNormal(z_dim) for z_dim in z_dims)
        self.loadings = nn.ParameterList(_loading(z_dim) for z_dim in z_dims)
        self.transforms = nn.ModuleList(
            [
                _Transform(above, below, sizes[::-1], activation, batch_norm)
                for (below, above), sizes in zip(pairwise(z_dims), hidden[1:], strict=True)
            ]
            if transforms is None
            else transforms
        )
        self.encoders = nn.ModuleList(
            [
                COVARIANCES[covariance](
                    x_dim, z_dim, tuple(chain(*hidden[: i + 1])), activation, batch_norm
                )
                for i, z_dim in enumerate(z_dims)
            ]
            if encoders is None
            else encoders
        )
        self.decoder = decoder or BernoulliNet(
            z_dims[0], x_dim, hidden[0][::-1], activation, batch_norm
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            h = None
            for i in reversed(range(len(self.priors))):
                xi = pyro.sample(f"xi_{i + 1}", self.priors[i]())  # (1)
                noise = xi @ self.loadings[i].T
                h = noise if h is None else self.transforms[i](h) + noise  # (2), (3)
            pyro.sample("x", self.decoder(h), obs=x)  # (4)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for i, encoder in enumerate(self.encoders):
                pyro.sample(f"xi_{i + 1}", encoder(x))  # (5)


class _Transform(Network):
    """The transformation T(h) = W MLP(h) + b."""

    def __init__(
        self, in_dim: int, out_dim: int, hidden: Sequence[int], activation: str, batch_norm: bool
    ) -> None:
        super().__init__()
        self.trunk = MLP(in_dim, hidden, activation, batch_norm=batch_norm)
        self.out = nn.Linear(self.trunk.out_dim, out_dim)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.out(self.trunk(h))
        return out


def _loading(dim: int) -> nn.Parameter:
    """Return G, shape (dim, dim), initialised like the weight of an `nn.Linear`."""
    return nn.Parameter(torch.empty(dim, dim).uniform_(-(dim**-0.5), dim**-0.5))
