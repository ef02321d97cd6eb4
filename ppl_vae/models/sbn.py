"""Sigmoid belief networks: layers of binary or categorical latent variables."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.models.conditional import ConditionalModel
from ppl_vae.models.networks.conditionals import BernoulliNet, FactorisedCategoricalNet
from ppl_vae.models.networks.layers import Network
from ppl_vae.models.networks.priors import FactorisedBernoulli, FactorisedCategorical
from ppl_vae.shared.checks import check_dims, check_layers, check_whole


class _DiscreteLayers(Model):
    """Base class of sigmoid belief networks: networks of all layers, draws along their chains."""

    def __init__(
        self,
        x_dim: int,
        z_dims: Sequence[int],
        hidden: Sequence[Sequence[int]],
        activation: str,
        n_categories: int,
        *,
        c_dim: int = 0,
        recognition: bool = True,
        prior: nn.Module | None,
        decoder: nn.Module | None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim)
        hidden = hidden if hidden or not isinstance(z_dims, Sequence) else ((),) * len(z_dims)
        check_layers(z_dims, hidden)
        check_whole("n_categories", n_categories, 2)
        self.x_dim, self.n_categories, self.n_layers = x_dim, n_categories, len(z_dims)
        sizes = [z_dim if n_categories == 2 else z_dim * n_categories for z_dim in z_dims]
        shared = (activation, n_categories)
        if c_dim:
            self.prior = prior or _conditional(c_dim, z_dims[-1], hidden[-1][::-1], *shared)
        else:
            self.prior = prior or _prior(z_dims[-1], n_categories)
        self.encoders = nn.ModuleList(  # q(z_1 | x), q(z_2 | z_1), ...
            _conditional(below + c_dim, z_dim, layers, *shared)
            for below, z_dim, layers in zip((x_dim, *sizes[:-1]), z_dims, hidden, strict=True)
            if recognition
        )
        self.conditionals = nn.ModuleList(  # p(z_1 | z_2), p(z_2 | z_3), ...
            _conditional(above, z_dim, layers[::-1], *shared)
            for (z_dim, _), above, layers in zip(
                pairwise(z_dims), sizes[1:], hidden[1:], strict=True
            )
        )
        self.decoder = decoder or BernoulliNet(sizes[0], x_dim, hidden[0][::-1], activation)

    def sample_top_down(self, *conditions: Tensor) -> Tensor:
        """Draw z_L given the conditions, z_{L-1} given z_L, ..., z_1; return z_1 as an input."""
        z = self.as_input(pyro.sample(f"z_{self.n_layers}", self.prior(*conditions)))
        for layer in range(self.n_layers - 1, 0, -1):
            z = self.as_input(pyro.sample(f"z_{layer}", self.conditionals[layer - 1](z)))
        return z

    def sample_bottom_up(self, x: Tensor, *conditions: Tensor) -> None:
        """Draw z_1 given x, z_2 given z_1, ..., z_L, each given the conditions too."""
        z = x
        for layer, encoder in enumerate(self.encoders, start=1):
            others = [c.expand(*z.shape[:-1], -1) for c in conditions]
            z = self.as_input(pyro.sample(f"z_{layer}", encoder(torch.cat([z, *others], -1))))

    def as_input(self, z: Tensor) -> Tensor:
        """Return a layer's values as a network's input: 0 and 1, or concatenated one-hot vectors.

        Values relaxed by `Relaxed` are floating, and those of categories already one-hot vectors.
        """
        if self.n_categories > 2:
            one_hot = z if z.is_floating_point() else F.one_hot(z, self.n_categories)
            z = one_hot.flatten(-2)
        return z.to(next(self.parameters()).dtype)


def _conditional(
    in_dim: int, out_dim: int, hidden: Sequence[int], activation: str, n_categories: int
) -> Network:
    if n_categories == 2:
        return BernoulliNet(in_dim, out_dim, hidden, activation)
    return FactorisedCategoricalNet(in_dim, out_dim, n_categories, hidden, activation)


def _prior(z_dim: int, n_categories: int) -> Network:
    if n_categories == 2:
        return FactorisedBernoulli(z_dim)
    return FactorisedCategorical(z_dim, n_categories)


class SBN(_DiscreteLayers):
    """Sigmoid belief network: L layers of binary or categorical units and a bottom-up guide.

        p(x, z)  = p(z_L) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1)                          (1)
        q(z | x) = q(z_1 | x) prod_{l>1} q(z_l | z_{l-1})                                 (2)

    z_1 is the layer nearest to the data. In p(z_L) the units are independent, with learned logits.
    In every other factor they are independent given the layer above or below, and their logits are
    linear in that layer, W z + b, or the output of a network with `hidden` layers. With
    `n_categories` = C > 2 a unit is one of C categories (softmax instead of sigmoid), passed to
    networks as a one-hot vector.

    No latent variable can be reparametrised, so `ELBO` trains the guide by the score function.

    References:
        Neal, "Connectionist learning of belief networks", Artificial Intelligence 56, 1992 (p).
        Mnih & Gregor, "Neural variational inference and learning in belief networks", ICML 2014,
        arXiv:1402.0030 (q).
        Mnih & Rezende, "Variational inference for Monte Carlo objectives", ICML 2016,
        arXiv:1602.06725, generative modelling (200-200-200, the default).
        Jang, Gu & Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017,
        arXiv:1611.01144, section 4 (categorical units).

    Differs from the paper:
        Data and binary latents enter the networks as 0 and 1, and are not centred. torch's
        initialisation; the output's bias does not start at the mean of the data (`decoder.start_at`
        does that).

    Args:
        x_dim: Size of a datum; data have shape (n, x_dim).
        z_dims: Numbers of units of z_1, ..., z_L.
        hidden: Sizes of the hidden layers of q(z_1 | x), q(z_2 | z_1), ...: one sequence for each
            layer; p(x | z_1), p(z_1 | z_2), ... have them in reverse order. By default all are
            linear.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        n_categories: Number of values of a latent unit: 2 for 0 and 1, z_l of shape (n, z_dims[l]);
            with more, z_l has the same shape and holds integers 0, ..., n_categories - 1.
        prior: p(z_L), called without inputs.
        decoder: p(x | z_1), called with z_1: 0 and 1, or concatenated one-hot vectors.
    """

    def __init__(
        self,
        x_dim: int = 784,
        z_dims: Sequence[int] = (200, 200, 200),
        hidden: Sequence[Sequence[int]] = (),
        activation: str = "tanh",
        n_categories: int = 2,
        *,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        settings: dict[str, Any] = {"prior": prior, "decoder": decoder}
        super().__init__(x_dim, z_dims, hidden, activation, n_categories, **settings)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z_1 = self.sample_top_down()
            pyro.sample("x", self.decoder(z_1), obs=x)  # (1)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self.sample_bottom_up(x)  # (2)


class ConditionalSBN(_DiscreteLayers, ConditionalModel):
    """Sigmoid belief network of x given a condition c, for structured prediction.

        p(x, z | c) = p(z_L | c) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1)                   (3)
        q(z | c, x) = q(z_1 | x, c) prod_{l>1} q(z_l | z_{l-1}, c)                        (4)

    The factors are those of `SBN`. (4) factorises as the exact posterior does: z_l depends on x
    through z_{l-1} only, on c directly. Without `recognition` the guide is the prior, as in the
    first two papers:

        q(z | c, x) = p(z_L | c) prod_{l<L} p(z_l | z_{l+1})                              (5)

    A boolean `mask` of the shape of x is True for observed entries. The other entries are neither
    scored nor visible to the guide.

    References:
        Raiko, Berglund, Alain & Dinh, "Techniques for learning binary stochastic feedforward neural
        networks", ICLR 2015, arXiv:1406.2989 (392-200-200-392, the default: the lower half of a
        digit given the upper one).
        Jang, Gu & Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017,
        arXiv:1611.01144, section 4.1 (392-(20 x 10)-(20 x 10)-392: `z_dims=(20, 20)`,
        `n_categories=10`).
        Mnih & Rezende, "Variational inference for Monte Carlo objectives", ICML 2016,
        arXiv:1602.06725, structured output prediction.

    Differs from the paper:
        As `SBN`.

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes
            0, ..., c_dim - 1, which are passed to networks as one-hot vectors.
        z_dims: Numbers of units of z_1, ..., z_L, z_1 nearest to x.
        hidden: Sizes of the hidden layers of q(z_1 | x, c), q(z_2 | z_1, c), ...: one sequence for
            each layer; p(x | z_1), p(z_1 | z_2), ... have them in reverse order, and p(z_L | c)
            those of the last in reverse order. By default all are linear.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        n_categories: Number of values of a latent unit, see `SBN`.
        recognition: Whether the guide has its own networks, (4), or is the prior, (5).
        prior: p(z_L | c), called with c.
        decoder: p(x | z_1), called with z_1: 0 and 1, or concatenated one-hot vectors.
    """

    def __init__(
        self,
        x_dim: int = 392,
        c_dim: int = 392,
        z_dims: Sequence[int] = (200, 200),
        hidden: Sequence[Sequence[int]] = (),
        activation: str = "tanh",
        n_categories: int = 2,
        recognition: bool = True,
        *,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        check_whole("c_dim", c_dim, 1)
        settings: dict[str, Any] = {"c_dim": c_dim, "recognition": recognition}
        settings |= {"prior": prior, "decoder": decoder}
        super().__init__(x_dim, z_dims, hidden, activation, n_categories, **settings)
        self.c_dim, self.recognition = c_dim, recognition

    def model(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z_1 = self.sample_top_down(self.vectors(c))
            self.observe(self.decoder(z_1), x, mask)  # (3)

    def guide(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if self.recognition:
                self.sample_bottom_up(self.zero_outside_mask(x, mask), self.vectors(c))  # (4)
            else:
                self.sample_top_down(self.vectors(c))  # (5)
