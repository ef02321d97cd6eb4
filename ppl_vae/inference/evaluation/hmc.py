"""Hamiltonian Monte Carlo moves of many chains at once."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import CompiledFunction
from ppl_vae.inference.evaluation.tempered import Tempered, Terms, tempered
from ppl_vae.shared.evaluation.annealing import JITTER


class Target(Protocol):
    """The interface of a density f_beta; see `tempered.Tempered`."""

    def terms(self, position: Tensor) -> Terms:
        """Return the terms of log f_beta at positions (K, N, D)."""

    def gradient(self, position: Tensor, beta: float | Tensor) -> Tensor:
        """Return the gradient of log f_beta at positions (K, N, D)."""


class State(NamedTuple):
    """Chains at positions of shape (K, N, D), and the terms of log f_beta there."""

    position: Tensor
    terms: Terms


def move(
    target: Target, state: State, beta: float | Tensor, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    """Make a Hamiltonian move of every chain that leaves f_beta invariant.

        momentum ~ N(0, I),    H = -log f_beta(position) + |momentum|^2 / 2

    and the end of the trajectory is accepted with probability min(1, exp(H_before - H_after)).
    Each move of a chain multiplies its step size by a uniform number from 0.1 to 1.9. This prevents
    periodic trajectories (section 3.2), and chains from getting stuck in a tail, where the common
    step size is too large.

    References:
        Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov Chain Monte Carlo, 2011,
        arXiv:1206.1901, sections 3.2 and 4.2.

    Args:
        target: The density.
        state: The chains.
        beta: Inverse temperature of the density.
        step_size: Leapfrog step size of each datum, shape (N,).
        steps: Number of leapfrog steps.

    Returns:
        The chains after the move, and their acceptance probabilities, (K, N).
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
    return _where(uniform[1] < probability, new, state), probability


class CompiledMoves:
    """`move` for densities of one program, compiled for each shape of the data.

    The graph contains random numbers, gradients and acceptance. The inverse temperature and the
    step sizes are inputs, so that all temperatures share it.

    Args:
        model: The module whose weights the program reads.
        compile: See `CompiledFunction`.
    """

    def __init__(self, model: nn.Module, *, compile: Compile) -> None:
        self.compiled = CompiledFunction(self._move, [model], compile=compile)

    def __call__(
        self, target: Tempered, state: State, beta: float, step_size: Tensor, steps: int
    ) -> tuple[State, Tensor]:
        """Make a move; see `move`."""
        self.target = target  # the graph fixes its program, not its data
        inverse = torch.full((), beta, dtype=torch.double, device=state.position.device)
        given = state.position, *state.terms, inverse, step_size, *target.data
        position, log_prior, log_likelihood, probability = self.compiled(steps, *given)
        return State(position, (log_prior, log_likelihood)), probability

    def _move(self, steps: int, position: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        log_prior, log_likelihood, beta, step_size, *data = given
        state = State(position, (log_prior, log_likelihood))
        after, probability = move(self.target.of(*data), state, beta, step_size, steps)
        return after.position, *after.terms, probability


def leapfrog(
    gradient: Callable[[Tensor], Tensor],
    position: Tensor,
    momentum: Tensor,
    step_size: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Simulate Hamiltonian dynamics, reversibly and volume-preserving, with a gradient per step.

    A step is half a step of the position, one of the momentum, and half a step of the position;
    adjacent half steps are merged. So the ends of a trajectory need no gradient.
    """
    position = position + 0.5 * step_size * momentum
    for left in reversed(range(steps)):
        momentum = momentum + step_size * gradient(position)
        position = position + (step_size if left else 0.5 * step_size) * momentum
    return position, momentum


def _where(accepted: Tensor, one: State, other: State) -> State:
    """Return `one` where `accepted`, (K, N), else `other`; terms have shape (..., K, N)."""
    prior, likelihood = (
        torch.where(accepted, a, b) for a, b in zip(one.terms, other.terms, strict=True)
    )
    position = torch.where(accepted.unsqueeze(-1), one.position, other.position)
    return State(position, (prior, likelihood))
