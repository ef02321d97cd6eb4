"""The variational autoencoder with several layers of latent variables."""

from collections.abc import Sequence
from itertools import pairwise

import pyro
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.models.networks.conditionals import BernoulliNet, DiagNormalNet
from ppl_vae.models.networks.priors import StandardNormal
from ppl_vae.shared.checks import check_dims, check_layers


class HierarchicalVAE(Model):
    """Variational autoencoder with L layers of latent variables and a bottom-up guide.

        p(x, z)  = p(z_L) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1),    p(z_L) = N(0, I)     (1)
        q(z | x) = q(z_1 | x) prod_{l>1} q(z_l | z_{l-1})                                 (2)

    All conditional distributions of latent variables are diagonal normal, and z_1 is the layer
    nearest to the data. With `skip=True` every z_l is an input of all layers below it:

        p(x, z)  = p(z_L) prod_{l<L} p(z_l | z_{l+1}, ..., z_L) p(x | z_1, ..., z_L)      (3)

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, equations 1 and 2 and section 5 (the two-layer model is the default).
        Dieng, Kim, Rush & Blei, "Avoiding latent variable collapse with generative skip models",
        AISTATS 2019, arXiv:1807.04863 (skip connections).

    Differs from the paper:
        Scales are exp(log_var / 2) (the authors' code of the first: exp of a linear map).
        The second paper feeds one z into every deterministic layer of its decoder; here every z_l
        is an input of all stochastic layers below it, and enters at their first hidden layer.
        torch's initialisation; the output's bias does not start at the mean of the data.

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dims: Sizes of z_1, ..., z_L.
        hidden: Sizes of the hidden layers of q(z_1 | x), q(z_2 | z_1), ...: one sequence for each
            layer; p(x | z_1), p(z_1 | z_2), ... have them in reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        skip: Whether every z_l is an input of all layers below it; requires hidden layers.
        batch_norm: Whether hidden layers are normalised, those of `encoders`, `conditionals` and
            the default decoder; see `layers.BatchNorm`.
        prior: p(z_L), called without inputs.
        decoder: p(x | z_1), called with z_1, and if `skip` p(x | z_1, ..., z_L), called with all.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (100, 50),
        hidden: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        activation: str = "tanh",
        skip: bool = False,
        batch_norm: bool = False,
        *,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim)
        check_layers(z_dims, hidden)
        self.x_dim, self.skip, self.n_layers = x_dim, skip, len(z_dims)
        inputs = [z_dims[i:] if skip else z_dims[i : i + 1] for i in range(len(z_dims))]
        self.prior = prior or StandardNormal(z_dims[-1])
        self.encoders = nn.ModuleList(  # q(z_1 | x), q(z_2 | z_1), ...
            DiagNormalNet(*dims, sizes, activation, batch_norm)
            for dims, sizes in zip(pairwise((x_dim, *z_dims)), hidden, strict=True)
        )
        self.conditionals = nn.ModuleList(  # p(z_1 | z_2, ...), p(z_2 | z_3, ...), ...
            DiagNormalNet(dims, z_dim, sizes[::-1], activation, batch_norm)
            for dims, z_dim, sizes in zip(inputs[1:], z_dims[:-1], hidden[1:], strict=True)
        )
        self.decoder = decoder or BernoulliNet(
            inputs[0], x_dim, hidden[0][::-1], activation, batch_norm
        )

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            above: tuple[Tensor, ...] = (pyro.sample(f"z_{self.n_layers}", self.prior()),)
            for layer in range(self.n_layers - 1, 0, -1):
                z = pyro.sample(f"z_{layer}", self.conditionals[layer - 1](*above))  # (1)
                above = (z, *above) if self.skip else (z,)  # (3)
            pyro.sample("x", self.decoder(*above), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            below = x
            for layer, encoder in enumerate(self.encoders, start=1):
                below = pyro.sample(f"z_{layer}", encoder(below))  # (2)
