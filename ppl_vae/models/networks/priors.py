"""Distributions of latent variables that depend on nothing: modules called without inputs."""

import pyro.distributions as dist
import torch
from torch import nn

from ppl_vae.models.networks.layers import Network
from ppl_vae.shared.checks import check_whole


class StandardNormal(Network):
    """N(0, I) over z_dim dimensions."""

    loc: torch.Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_whole("z_dim", z_dim, 1)
        # A buffer, so that it follows the model to its device; not a weight, so not in its file.
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Normal(self.loc, 1.0), 1)


class UniformCategorical(Network):
    """p(y) = 1 / n_classes for y = 0, ..., n_classes - 1."""

    logits: torch.Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        check_whole("n_classes", n_classes, 2)
        self.register_buffer("logits", torch.zeros(n_classes), persistent=False)

    def forward(self) -> dist.Categorical:
        return dist.Categorical(logits=self.logits)


class FactorisedBernoulli(Network):
    """prod_d Bernoulli(z_d | sigmoid(logits_d)) over z_dim units; the logits are learned."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_whole("z_dim", z_dim, 1)
        self.logits = nn.Parameter(torch.zeros(z_dim))

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Bernoulli(logits=self.logits), 1)


class FactorisedCategorical(Network):
    """prod_d Categorical(z_d | softmax(logits_d)) over z_dim units; the logits are learned."""

    def __init__(self, z_dim: int, n_categories: int) -> None:
        super().__init__()
        check_whole("z_dim", z_dim, 1)
        check_whole("n_categories", n_categories, 2)
        self.logits = nn.Parameter(torch.zeros(z_dim, n_categories))

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Categorical(logits=self.logits), 1)
