"""Annealed importance sampling of a batch of data, for `log_likelihood` and `bdmc`."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ppl_vae.inference.evaluation import hmc
from ppl_vae.inference.evaluation.hmc import State
from ppl_vae.inference.evaluation.tempered import Tempered, increment
from ppl_vae.shared.evaluation.annealing import ACCEPTANCE, FIRST_STEP_SIZE, RATE, Annealing
from ppl_vae.shared.evaluation.estimates import Estimate

Move: TypeAlias = Callable[[Tempered, State, float, Tensor, int], tuple[State, Tensor]]
"""`hmc.move` or `hmc.CompiledMoves`."""


def forwards(
    target: Tempered, start: Tensor, sizes: Tensor, annealing: Annealing, move: Move = hmc.move
) -> Tensor:
    """Return log weights of chains from the prior to the posterior, (K, N): E[w] = p(x).

        log w = sum_{t=1}^T log f_t(u_{t-1}) - log f_{t-1}(u_{t-1}),    u_t from u_{t-1} by a move
                                                                        that leaves f_t invariant

    with f_t = p(z) p(x | z)^beta_t. E[w] = p(x) holds for any step sizes that do not depend on
    these chains.

    References:
        Neal, "Annealed importance sampling", Statistics and Computing, 2001,
        arXiv:physics/9803008, section 2.

    Args:
        target: The densities.
        start: Draws from the prior, (K, N, D).
        sizes: Step sizes of the moves, from `step_sizes`, shape (T - 1, N).
        annealing: The effort.
        move: The transition kernel.
    """
    betas = annealing.betas().tolist()
    return _weights(target, start, betas, sizes, annealing.leapfrog_steps, move)


def backwards(
    target: Tempered, start: Tensor, sizes: Tensor, annealing: Annealing, move: Move = hmc.move
) -> Tensor:
    """Return log weights of chains from the posterior to the prior, (K, N): E[w] = 1 / p(x).

    Moves satisfy detailed balance, so each is its own reversal.

    Args:
        target: The densities.
        start: Draws from the posterior, (K, N, D).
        sizes: Step sizes of the moves, in the order of `forwards`.
        annealing: The effort.
        move: The transition kernel.
    """
    betas = annealing.betas()[::-1].tolist()
    return _weights(target, start, betas, sizes.flip(0), annealing.leapfrog_steps, move)


def step_sizes(
    target: Tempered, start: Tensor, annealing: Annealing, move: Move = hmc.move
) -> Tensor:
    """Return the step size of each move and datum, (T - 1, N), adapted by separate chains.

    These use fewer temperatures, and change the step size of a datum after every move:
    log size += 1/2 (acceptance of its chains - 0.8). The step sizes are interpolated, and fixed in
    the measured run, where adaptation could bias the weights.

    Args:
        target: The densities.
        start: Draws from the prior, (K, N, D), used for nothing else.
        annealing: The effort.
        move: The transition kernel.
    """
    if annealing.temperatures == 1:
        return start.new_empty(0, start.shape[1])
    betas = annealing.adaptation_betas()[1:-1].tolist()
    log_size = torch.full_like(start[0, :, 0], FIRST_STEP_SIZE).log()
    state, log_sizes = State(start, target.terms(start)), []
    for beta in betas:
        state, probability = move(target, state, beta, log_size.exp(), annealing.leapfrog_steps)
        log_size = log_size + RATE * (probability.mean(0) - ACCEPTANCE)
        log_sizes.append(log_size)
    matrix = torch.as_tensor(annealing.interpolation()).to(log_size)
    return (matrix @ torch.stack(log_sizes)).exp()


def runs_of(annealing: Annealing, measured: int = 1) -> int:
    """Return the number of runs of the model for a batch, as `resolve_compile` counts.

    Args:
        annealing: The effort.
        measured: Number of runs over all temperatures, excluding `step_sizes`.
    """
    if annealing.temperatures == 1:
        return 0
    moves = measured * (annealing.temperatures - 1) + annealing.adaptation - 1
    return moves * (3 * annealing.leapfrog_steps + 1)


def estimate(log_w: Tensor) -> Estimate:
    """Return log mean_k w_k of each datum from log weights (K, N)."""
    log_w = log_w.double()
    return Estimate.of_weights((log_w.logsumexp(0), (2 * log_w).logsumexp(0)), len(log_w))


def _weights(
    target: Tempered,
    start: Tensor,
    betas: Sequence[float],
    sizes: Tensor,
    steps: int,
    move: Move,
) -> Tensor:
    state = State(start, target.terms(start))
    log_w = increment(state.terms, betas[0], betas[1])
    moves: Iterator[tuple[float, float, Tensor]] = zip(betas[1:-1], betas[2:], sizes, strict=True)
    for beta, following, size in moves:
        state, _ = move(target, state, beta, size, steps)
        log_w = log_w + increment(state.terms, beta, following)
    return log_w
