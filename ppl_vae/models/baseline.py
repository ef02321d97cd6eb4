"""Prediction of x from c without latent variables."""

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.models.conditional import ConditionalModel
from ppl_vae.models.networks.conditionals import BernoulliNet
from ppl_vae.shared.checks import check_dims


class Baseline(ConditionalModel):
    """Network p0(x | c) without latent variables: the baseline of structured prediction.

        p0(x | c) = prod_d p(x_d; f_d(c))

    The guide is empty: log p0(x | c) is its own bound, and `ELBO()` is maximum likelihood. For
    condition, target and mask see `GSNN`; unobserved entries of x are not scored. A trained and
    frozen baseline gives a `CVAE` its first guess:

        first = Baseline(x_dim, c_dim)
        fit(first, (c, x), epochs=5)
        first.baseline.requires_grad_(False)
        model = CVAE(x_dim, c_dim, baseline=first.baseline)

    References:
        Sohn, Lee & Yan, "Learning structured output representation using deep conditional
        generative models", NeurIPS 2015 (there "baseline NN"; the paper's x is our c, its y our x).

    Differs from the paper:
        Sizes and activation are those of Pyro's example; torch's initialisation.

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes
            0, ..., c_dim - 1, which are passed to the network as one-hot vectors.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        baseline: p0(x | c), called with c.
    """

    def __init__(
        self,
        x_dim: int = 784,
        c_dim: int = 784,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        *,
        baseline: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim, c_dim=c_dim)
        self.x_dim, self.c_dim = x_dim, c_dim
        self.baseline = baseline or BernoulliNet(c_dim, x_dim, hidden, activation)

    def model(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            self.observe(self.baseline(self.vectors(c)), x, mask)

    def guide(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        pass

    def check(self, *data: Any) -> None:
        self.check_conditioned(self.baseline, *data)
