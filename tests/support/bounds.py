"""The expectation of bounds of two particles, by sums over all pairs of draws, with its gradient.

A draw is one of a finite number: the values of a class, and in the place of a standard normal
number the points of a grid, exact to many digits for what is smooth. Bounds are functions of log
weights, (..., 2, N) -> (..., N).
"""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from support import assert_unbiased
from torch import Tensor
from toy import Toy

from ppl_vae.models import VAE, DiagNormalNet

Bound = Callable[[Tensor], Tensor]
N, NODES = 3, 50
COPIES, REPLICATES = 400, 60


def nodes(count: int = NODES) -> tuple[Tensor, Tensor]:
    """Values in the place of a standard normal number, and their log probabilities."""
    values = torch.linspace(-7, 7, count, dtype=torch.double)
    return values, (-0.5 * values**2).log_softmax(0)


def pair(encoder: type[DiagNormalNet] = DiagNormalNet) -> tuple[VAE, Tensor]:
    """A linear Gaussian pair with one latent number, and data."""
    model = VAE(2, 1, (), encoder=encoder(2, 1, ()), decoder=DiagNormalNet(1, 2, ())).double()
    return model, torch.randn(N, 2, dtype=torch.double)


def of_vae(model: VAE, x: Tensor, count: int = NODES) -> tuple[Tensor, Tensor]:
    """Log probabilities and log weights of all draws, (draws, N) each."""
    values, log_prob = nodes(count)
    q = model.encoder(x)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    z = loc + scale * values[:, None, None]
    log_w = model.prior().log_prob(z) + model.decoder(z).log_prob(x) - q.log_prob(z)
    return log_prob[:, None].expand(-1, len(x)), log_w


def of_toy(toy: Toy, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a class and a number, whose distributions are written out."""
    values, log_prob = nodes()
    log_q, log_pi = (toy.w * x[:, None] + toy.u).log_softmax(-1), toy.pi.log_softmax(-1)
    loc, scale = toy.g + toy.h * x[:, None], toy.s.exp()
    z = loc + scale * values[:, None, None]
    log_w = log_pi - log_q + dist.Normal(0.0, 1.0).log_prob(z)
    log_w = log_w + dist.Normal(toy.a * z + toy.m, 1.0).log_prob(x[:, None])
    log_w = log_w - dist.Normal(loc, scale).log_prob(z)
    log_prob = log_prob[:, None, None] + log_q
    return tuple(part.transpose(1, 2).reshape(-1, len(x)) for part in (log_prob, log_w))


def expected(bound: Bound, log_prob: Tensor, log_w: Tensor) -> Tensor:
    """E bound(log w_1, log w_2) of each datum."""
    first, second = torch.broadcast_tensors(log_w[:, None], log_w[None, :])
    weight = (log_prob[:, None] + log_prob[None, :]).exp()
    return (weight * bound(torch.stack([first, second], dim=-2))).sum((0, 1))


def log_mean_exp(log_w: Tensor) -> Tensor:
    return log_w.exp().mean(-2).log()


def log_evidence(log_prob: Tensor, log_w: Tensor) -> Tensor:
    """log p(x) of each datum."""
    return (log_prob.exp() * log_w.exp()).sum(0).log()


def standard_normal(x: Tensor) -> Tensor:
    return -0.5 * x**2 - 0.5 * math.log(2 * math.pi)


def assert_expected(objective: Any, pair: Any, x: Tensor, parameters: Any, loss: Tensor) -> None:
    """Loss and gradients are on average `loss` and its gradients."""

    def flat(loss: Tensor) -> Tensor:
        grads = torch.autograd.grad(loss, parameters)
        return torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in grads)])

    copies = x.repeat(COPIES, *[1] * (x.dim() - 1))
    losses = [
        flat(objective.differentiable_loss(pair.model, pair.guide, copies) / COPIES)
        for _ in range(REPLICATES)
    ]
    expected = flat(loss)
    assert_unbiased(torch.stack(losses), expected, errors=4.5)
    spread = torch.stack(losses).std(0) / REPLICATES**0.5
    assert (spread < 0.1 * (1 + expected.abs())).all()  # so that a wrong one is seen
