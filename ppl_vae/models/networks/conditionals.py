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
"""Single precision can still hold variance and precision. Adam's steps do not shrink with the
gradient, so a variance that no longer matters (in a ladder, say) would grow until it overflows."""


class DiagNormalNet(Network):
    """N(loc(h), diag exp(log_var(h))) with h = MLP(inputs) (Kingma & Welling 2014, appendix C.2).

    log_var is cut to [-80, 80].

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Size of the event.
        hidden: Sizes of the hidden layers.
        activation: Name of the activation.
        batch_norm: Whether hidden layers are normalised, see `BatchNorm`.
    """

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))

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
        self.trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm)
        self.loc = nn.Linear(self.trunk.out_dim, out_dim)
        self.log_var = nn.Linear(self.trunk.out_dim, out_dim)

    def forward(self, *inputs: Tensor) -> dist.Independent:
        return self.head(self.trunk(*inputs))

    def head(self, h: Tensor) -> dist.Independent:
        """The distribution given h, the output of the trunk."""
        log_var = self.log_var(h).clamp(-LARGEST_LOG_VAR, LARGEST_LOG_VAR)
        return dist.Independent(LogVarNormal(self.loc(h), log_var), 1)


class BernoulliNet(Network):
    """prod_d Bernoulli(x_d | sigmoid(logits_d(h))), h = MLP(inputs) (K & W 2014, appendix C.1).

    Grey levels in [0, 1] are scored with the same formula, x log p + (1 - x) log(1 - p), which is
    then not the log of a probability: see "binarisation" in `ppl_vae.data`.

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Size of the event.
        hidden: Sizes of the hidden layers.
        activation: Name of the activation.
        batch_norm: Whether hidden layers are normalised, see `BatchNorm`.
    """

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)

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
        self.trunk = MLP(in_dims, hidden, activation, batch_norm=batch_norm)
        self.logits = nn.Linear(self.trunk.out_dim, out_dim)

    def forward(self, *inputs: Tensor) -> Bernoullis:
        return Bernoullis(self.logits(self.trunk(*inputs)))

    @torch.no_grad()
    def start_at(self, mean: Any) -> Self:
        """Sets the output's bias to logit(mean), so that training does not begin at grey images.

        A bias of Adam moves by about the step size in each step, and -7, for pixels that are never
        on, is far away.

        Args:
            mean: Of the data, shape (out_dim,); it is cut to [0.001, 0.999], as Burda et al.'s code
                does (2016, arXiv:1509.00519).
        """
        values = torch.as_tensor(as_numpy(mean))
        if values.shape != self.logits.bias.shape:
            raise ValueError(
                f"mean should have shape {tuple(self.logits.bias.shape)}, had {tuple(values.shape)}"
            )
        self.logits.bias.copy_(values.clamp(0.001, 0.999).logit())
        return self


class CategoricalNet(Network):
    """Categorical(softmax(logits(h))) over n_classes classes, with h = MLP(inputs).

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        n_classes: Number of classes.
        hidden: Sizes of the hidden layers.
        activation: Name of the activation.
        dropout: Rates of dropout of the inputs and of the hidden units, see `MLP`.
        batch_norm: Whether hidden layers are normalised, see `BatchNorm`.
    """

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
        self.trunk = MLP(in_dims, hidden, activation, dropout, batch_norm)
        self.logits = nn.Linear(self.trunk.out_dim, n_classes)

    def forward(self, *inputs: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=self.logits(self.trunk(*inputs)))


class FactorisedCategoricalNet(Network):
    """prod_d Categorical(z_d | softmax(logits_d(h))), h = MLP(inputs), over out_dim units.

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        out_dim: Number of units; values are integers of shape (..., out_dim).
        n_categories: Number of categories of each.
        hidden: Sizes of the hidden layers.
        activation: Name of the activation.
    """

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
        self.trunk = MLP(in_dims, hidden, activation)
        self.logits = nn.Linear(self.trunk.out_dim, out_dim * n_categories)

    def forward(self, *inputs: Tensor) -> dist.Independent:
        logits = self.logits(self.trunk(*inputs)).unflatten(-1, self.shape)
        return dist.Independent(dist.Categorical(logits=logits), 1)
