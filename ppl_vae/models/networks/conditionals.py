"""Conditional distributions: modules that take values and return a distribution.

Every network accepts any leading dimensions, and several inputs whose leading dimensions broadcast.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.models.distributions.bernoulli import Bernoullis
from ppl_vae.models.distributions.normal import LogVarNormal
from ppl_vae.models.networks.layers import MLP, Network
from ppl_vae.shared.checks import as_numpy, check_whole

LARGEST_LOG_VAR = 80.0
"""Up to here variance and precision are finite in single precision. Adam's steps do not shrink with
the gradient, so a variance without influence (in a ladder, for example) would grow until it
overflows."""


class TrunkAndHeads(Network):
    """Base class of conditional distributions: an MLP as trunk, and linear heads on its output."""

    trunk: MLP

    def _build(self, trunk: MLP, **heads: int) -> None:
        """Set the trunk and a linear head of each name and size."""
        self.trunk = trunk
        for name, size in heads.items():
            setattr(self, name, nn.Linear(trunk.out_dim, size))


class VectorNet(TrunkAndHeads):
    """Base class of distributions of vectors, of which each head gives one parameter."""

    heads: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole("out_dim", out_dim, 1)
        trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm)
        self._build(trunk, **dict.fromkeys(self.heads, out_dim))


class DiagNormalNet(VectorNet):
    """Diagonal normal distribution N(loc(h), diag exp(log_var(h))) with h = MLP(inputs).

    log_var is clipped to [-80, 80].

    References:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114,
        appendix C.2.

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Size of the event.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `layers.ACTIVATIONS`.
        batch_norm: Whether hidden layers are normalised; see `BatchNorm`.
    """

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    heads = ("loc", "log_var")
    loc: nn.Linear
    log_var: nn.Linear

    def forward(self, *inputs: Tensor) -> dist.Independent:
        return self.head(self.trunk(*inputs))

    def head(self, h: Tensor) -> dist.Independent:
        """Return the distribution given h, the output of the trunk."""
        log_var = self.log_var(h).clamp(-LARGEST_LOG_VAR, LARGEST_LOG_VAR)
        return dist.Independent(LogVarNormal(self.loc(h), log_var), 1)


class BernoulliNet(VectorNet):
    """Independent Bernoulli distributions of the pixels, sigmoid(logits(h)) with h = MLP(inputs).

    Grey levels in [0, 1] are scored with the same formula, x log p + (1 - x) log(1 - p), which is
    then not the log of a probability: see "binarisation" in `ppl_vae.data`.

    References:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114,
        appendix C.1.

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Size of the event.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `layers.ACTIVATIONS`.
        batch_norm: Whether hidden layers are normalised; see `BatchNorm`.
    """

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    heads = ("logits",)
    logits: nn.Linear

    def forward(self, *inputs: Tensor) -> Bernoullis:
        return Bernoullis(self.logits(self.trunk(*inputs)))

    @torch.no_grad()
    def start_at(self, mean: Any) -> Self:
        """Set the output's bias to logit(mean), so that training does not begin at grey images.

        Adam changes a bias by about the step size in each step, and the bias of pixels that are
        never on, about -7, is far from zero.

        Args:
            mean: Mean of the data, shape (out_dim,), clipped to [0.001, 0.999] as in Burda et al.'s
                code (2016, arXiv:1509.00519).
        """
        values = torch.as_tensor(as_numpy(mean))
        if values.shape != self.logits.bias.shape:
            raise ValueError(
                f"mean should have shape {tuple(self.logits.bias.shape)}, had {tuple(values.shape)}"
            )
        self.logits.bias.copy_(values.clamp(0.001, 0.999).logit())
        return self


class CategoricalNet(TrunkAndHeads):
    """Categorical distribution softmax(logits(h)) over n_classes classes, with h = MLP(inputs).

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        n_classes: Number of classes.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `layers.ACTIVATIONS`.
        dropout: Dropout rates of the inputs and of the hidden units; see `MLP`.
        batch_norm: Whether hidden layers are normalised; see `BatchNorm`.
    """

    logits: nn.Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        n_classes: int,
        hidden: Sequence[int],
        activation: str = "softplus",
        dropout: tuple[float, float] = (0.0, 0.0),
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole("n_classes", n_classes, 2)
        self._build(MLP(in_dims, hidden, activation, dropout, batch_norm), logits=n_classes)

    def forward(self, *inputs: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=self.logits(self.trunk(*inputs)))


class FactorisedCategoricalNet(TrunkAndHeads):
    """Independent categorical distributions of out_dim units, softmax(logits(h)), h = MLP(inputs).

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Number of units; values are integers of shape (..., out_dim).
        n_categories: Number of categories of each unit.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `layers.ACTIVATIONS`.
    """

    logits: nn.Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        out_dim: int,
        n_categories: int,
        hidden: Sequence[int],
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        check_whole("out_dim", out_dim, 1)
        check_whole("n_categories", n_categories, 2)
        self.shape = (out_dim, n_categories)
        self._build(MLP(in_dims, hidden, activation), logits=out_dim * n_categories)

    def forward(self, *inputs: Tensor) -> dist.Independent:
        logits = self.logits(self.trunk(*inputs)).unflatten(-1, self.shape)
        return dist.Independent(dist.Categorical(logits=logits), 1)
