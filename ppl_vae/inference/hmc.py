"""Hamiltonian moves of many chains at once."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ppl_vae.annealing import JITTER
from ppl_vae.inference.tempered import Terms, tempered


class Target(Protocol):
    """What a move asks of the density f_beta; see `tempered.Tempered`."""

    def terms(self, position: Tensor) -> Terms:
        """The terms of log f_beta at positions (K, N, D)."""

    def gradient(self, position: Tensor, beta: float) -> Tensor:
        """The gradient of log f_beta there."""


class State(NamedTuple):
    """Chains at positions of shape (K, N, D), and the terms of log f_beta there."""

    position: Tensor
    terms: Terms


def move(
    target: Target, state: State, beta: float, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    """A Hamiltonian move of every chain, which leaves f_beta as it is.

        momentum ~ N(0, I),    H = -log f_beta(position) + |momentum|^2 / 2

    and the end of the trajectory is accepted with probability min(1, exp(H_before - H_after)).
    All step sizes of a move are multiplied by one number, uniform from 0.1 to 1.9, drawn anew for
    each chain and datum, so that trajectories are not periods (section 3.2), and a chain in a tail,
    where the step size of the others is too large, does not stay there.

    References:
        Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov Chain Monte Carlo, 2011,
        arXiv:1206.1901, sections 3.2 and 4.2.

    Args:
        target: The density.
        state: Where the chains are.
        beta: Of the density that is left as it is.
        step_size: Of the leapfrog, for each datum, shape (N,).
        steps: Number of leapfrog steps.

    Returns:
        Where the chains are then, and the probability of acceptance of each, (K, N).
    """
    momentum = torch.randn_like(state.position)
    batch = state.position.shape[:-1]
    uniform = torch.rand((2, *batch), dtype=momentum.dtype, device=momentum.device)
    size = step_size * (1 + JITTER * (2 * uniform[0] - 1))
    position, after = leapfrog(
        lambda at: target.gradient(at, beta), state.position, momentum, size.unsqueeze(-1), steps
    )
    new = State(position, target.terms(position))
    log_f, kinetic = tempered(new.terms, beta), 0.5 * (momentum**2 - after**2).sum(-1)
    log_ratio = log_f - tempered(state.terms, beta) + kinetic
    to_infinity = ~(log_f + kinetic).isfinite()
    probability = log_ratio.clamp(max=0).exp().masked_fill(to_infinity, 0)
    return _choose(uniform[1] < probability, new, state), probability


def leapfrog(
    gradient: Callable[[Tensor], Tensor],
    position: Tensor,
    momentum: Tensor,
    step_size: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Hamiltonian dynamics, reversible and of constant volume, with a gradient for each step.

    A step is half a step of the position, one of the momentum, and half a step of the position;
    halves that meet are one. So the ends of a trajectory need no gradient.
    """
    position = position + 0.5 * step_size * momentum
    for left in reversed(range(steps)):
        momentum = momentum + step_size * gradient(position)
        position = position + (step_size if left else 0.5 * step_size) * momentum
    return position, momentum


def _choose(first: Tensor, one: State, other: State) -> State:
    """`one` where `first`, else `other`: (K, N) broadcasts against terms of shape (..., K, N)."""
    terms = tuple(torch.where(first, a, b) for a, b in zip(one.terms, other.terms, strict=True))
    return State(torch.where(first.unsqueeze(-1), one.position, other.position), terms)  # type: ignore[arg-type]
