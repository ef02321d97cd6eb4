"""Conditional distributions: modules that take values and return a distribution.

Every network accepts any leading dimensions, and several inputs whose leading dimensions broadcast.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.arguments import Remembers
from ppl_vae.checks import as_numpy, check_batch, check_whole
from ppl_vae.models.distributions import Bernoullis

ACTIVATIONS = ("softplus", "relu", "tanh", "elu", "leaky_relu", "gelu", "silu", "sigmoid")

LARGEST_LOG_VAR = 80.0
"""Single precision can still hold variance and precision. Adam's steps do not shrink with the
gradient, so a variance that no longer matters (in a ladder, say) would grow until it overflows."""


class Network(Remembers, nn.Module):
    """A module that remembers its arguments, so that a model it is injected into can be saved."""

    backend: ClassVar[str] = "pyro"

    def __setattr__(self, name: str, value: Any) -> None:
        # A network that takes the place of another is what is saved from then on.
        if name in self.__dict__.get("_modules", {}) and name in self.arguments:
            self.arguments = {**self.arguments, name: value}
        super().__setattr__(name, value)


class ConcatLinear(nn.Linear):
    """W [a, b, ...] + c of the concatenated inputs, computed as W_a a + W_b b + ... + c.

    The concatenation is never made, and the inputs' leading dimensions broadcast after the
    products: with x of shape (N, D) and ten enumerated classes of shape (10, 1, 1, 10), the product
    with x is computed once and not once per class. The parameters are those of one `nn.Linear`.
    """

    def __init__(self, in_dims: Sequence[int], out_dim: int, bias: bool = True) -> None:
        super().__init__(sum(in_dims), out_dim, bias)
        self.in_dims = tuple(in_dims)

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = zip(inputs, self.weight.split(self.in_dims, dim=1), strict=True)
        out = F.linear(*first, self.bias)
        for value, weight in others:
            out = out + F.linear(value, weight)
        return out


class BatchNorm(nn.Module):
    """weight (x - m) / sqrt(v + 1e-5) + bias of each feature, over all leading dimensions of x.

    In training mode m and v are mean and variance of x itself, over data, particles and enumerated
    values alike, and a tenth of them goes into `running_mean` and `running_var`; in evaluation
    mode these are m and v. On x of shape (n, dim) it is `torch.nn.BatchNorm1d`.

    References:
        Ioffe & Szegedy, "Batch normalization: accelerating deep network training by reducing
        internal covariate shift", ICML 2015, arXiv:1502.03167, section 3 and algorithms 1 and 2.

    Args:
        dim: Number of features; x has shape (..., dim).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_whole("dim", dim, 1)
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if self.training:
            check_batch(len(flat))
        state = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(flat, *state, self.training).reshape(x.shape)


class MLP(Network):
    """h_i = f(W_i h_{i-1} + b_i) for i = 1, ..., len(hidden), with h_0 the concatenated inputs.

    With `batch_norm` h_i = f(BN_i(W_i h_{i-1})): the mean that `BatchNorm` takes away would take
    away b_i, and its own bias is in the place of it.

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        hidden: Sizes of the hidden layers; none gives the inputs back, so only one input may be.
        activation: Name of f, the same in `torch.nn.functional` and `jax.nn`.
        dropout: Probabilities with which inputs and hidden units are set to zero in training mode
            (the others are scaled up; Srivastava et al., JMLR 2014).
        batch_norm: Whether hidden layers are normalised, see `BatchNorm`.
    """

    def __init__(
        self,
        in_dims: int | Sequence[int],
        hidden: Sequence[int],
        activation: str = "softplus",
        dropout: tuple[float, float] = (0.0, 0.0),
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        in_dims = (in_dims,) if isinstance(in_dims, int) else tuple(in_dims)
        if not isinstance(hidden, Sequence):
            raise ValueError(f"hidden should be a sequence of sizes, was {hidden!r}")
        for name, sizes in (("in_dims", in_dims), ("hidden", hidden)):
            for size in sizes:
                check_whole(name, size, 1)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation should be one of {ACTIVATIONS}, was {activation!r}")
        if not hidden and len(in_dims) > 1:
            raise ValueError(f"hidden should name a layer to join {len(in_dims)} inputs, was empty")
        self.out_dim = hidden[-1] if hidden else in_dims[0]
        self.layers = nn.ModuleList()
        if hidden:
            bias = not batch_norm
            self.layers.append(ConcatLinear(in_dims, hidden[0], bias))
            self.layers.extend(nn.Linear(*sizes, bias) for sizes in pairwise(hidden))
        self.norms = nn.ModuleList(BatchNorm(size) for size in hidden if batch_norm)
        self.activation = activation
        if not all(0 <= rate < 1 for rate in dropout):
            raise ValueError(f"dropout should be two rates in [0, 1), was {dropout!r}")
        self.dropout_in, self.dropout_hidden = dropout

    def forward(self, *inputs: Tensor) -> Tensor:
        activation = getattr(F, self.activation)
        h = tuple(F.dropout(value, self.dropout_in, self.training) for value in inputs)
        for i, layer in enumerate(self.layers):
            value = self.norms[i](layer(*h)) if self.norms else layer(*h)
            h = (F.dropout(activation(value), self.dropout_hidden, self.training),)
        return h[0]


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
        return dist.Independent(dist.Normal(self.loc(h), (0.5 * log_var).exp()), 1)


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
