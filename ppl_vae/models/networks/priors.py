"""Distributions of latent variables without inputs: modules called without arguments."""

import pyro.distributions as dist
import torch
from torch import nn

from ppl_vae.models.networks.layers import Network
from ppl_vae.shared.checks import check_whole


class StandardNormal(Network):
    """Standard normal distribution N(0, I) of z_dim dimensions."""

    loc: torch.Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_whole("z_dim", z_dim, 1)
        # A buffer moves with the model to its device; it is not persistent, so not in files.
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Normal(self.loc, 1.0), 1)


class UniformCategorical(Network):
    """Uniform distribution over n_classes classes, p(y) = 1 / n_classes."""

    logits: torch.Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        check_whole("n_classes", n_classes, 2)
        self.register_buffer("logits", torch.zeros(n_classes), persistent=False)

    def forward(self) -> dist.Categorical:
        return dist.Categorical(logits=self.logits)


class FactorisedBernoulli(Network):
    """Independent Bernoulli distributions of z_dim units with learned logits."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_whole("z_dim", z_dim, 1)
        self.logits = nn.Parameter(torch.zeros(z_dim))

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Bernoulli(logits=self.logits), 1)


class FactorisedCategorical(Network):
    """Independent categorical distributions of z_dim units with learned logits."""

    def __init__(self, z_dim: int, n_categories: int) -> None:
        super().__init__()
        check_whole("z_dim", z_dim, 1)
        check_whole("n_categories", n_categories, 2)
        self.logits = nn.Parameter(torch.zeros(z_dim, n_categories))

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Categorical(logits=self.logits), 1)
