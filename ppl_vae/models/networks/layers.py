"""Layers, and the trunks made of them.

All accept any leading dimensions, and several inputs whose leading dimensions broadcast.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import check_batch, check_dropout, check_flag, check_hidden, check_whole

ACTIVATIONS = ("softplus", "relu", "tanh", "elu", "leaky_relu", "gelu", "silu", "sigmoid")


class Network(Configurable, nn.Module):
    """Base class of modules that remember their arguments, which `Model.save` writes to files."""

    backend: ClassVar[str] = "pyro"

    def __setattr__(self, name: str, value: Any) -> None:
        # A network that replaces an injected one is saved in its place.
        if name in self.__dict__.get("_modules", {}) and name in self.arguments:
            self.arguments = {**self.arguments, name: value}
        super().__setattr__(name, value)


class ConcatLinear(nn.Linear):
    """Linear layer on concatenated inputs, W [a, b, ...] + c, computed as W_a a + W_b b + ... + c.

    The inputs are never concatenated, and their leading dimensions broadcast after the products:
    with x of shape (N, D) and ten enumerated classes of shape (10, 1, 1, 10), the product with x is
    computed once and not once per class. The parameters are those of one `nn.Linear`.
    """

    def __init__(self, in_dims: Sequence[int], out_dim: int, bias: bool = True) -> None:
        check_flag("bias", bias)
        super().__init__(sum(in_dims), out_dim, bias)
        self.in_dims = tuple(in_dims)

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = zip(inputs, self.weight.split(self.in_dims, dim=1), strict=True)
        out = F.linear(*first, self.bias)
        for value, weight in others:
            out = out + F.linear(value, weight)
        return out


class BatchNorm(nn.Module):
    """Batch normalisation of each feature over all leading dimensions.

        y = weight (x - m) / sqrt(v + 1e-5) + bias

    In training mode m and v are the mean and variance of x itself, over data, particles and
    enumerated values alike, and `running_mean` and `running_var` move a tenth of the way towards
    them; in evaluation mode m and v are these running statistics. On x of shape (n, dim) it equals
    `torch.nn.BatchNorm1d`.

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
    """Multilayer perceptron of one or several inputs, with dropout and batch normalisation.

        h_i = f(W_i h_{i-1} + b_i),  i = 1, ..., len(hidden),  h_0 the concatenated inputs

    With `batch_norm` h_i = f(BN_i(W_i h_{i-1})): the bias of `BatchNorm` replaces b_i, which the
    subtraction of the mean would cancel.

    Args:
        in_dims: Size of the input, or the sizes of several inputs.
        hidden: Sizes of the hidden layers. If there are none, the output is the input, and there
            must be only one input.
        activation: Name of f, the same in `torch.nn.functional` and `jax.nn`.
        dropout: Probabilities with which inputs and hidden units are set to zero in training mode
            (the others are scaled up; Srivastava et al., JMLR 2014).
        batch_norm: Whether hidden layers are normalised; see `BatchNorm`.
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
        in_dims = tuple(in_dims) if isinstance(in_dims, Sequence) else (in_dims,)
        for size in in_dims:
            check_whole("in_dims", size, 1)
        check_hidden(hidden)
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
        check_dropout(dropout)
        self.dropout_in, self.dropout_hidden = dropout

    def forward(self, *inputs: Tensor) -> Tensor:
        activation = getattr(F, self.activation)
        h = tuple(F.dropout(value, self.dropout_in, self.training) for value in inputs)
        for i, layer in enumerate(self.layers):
            value = self.norms[i](layer(*h)) if self.norms else layer(*h)
            h = (F.dropout(activation(value), self.dropout_hidden, self.training),)
        return h[0]
