"""Annealed importance sampling of a batch of data; `log_likelihood` and `bdmc` use it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ppl_vae.annealing import ACCEPTANCE, FIRST_STEP_SIZE, RATE, Annealing
from ppl_vae.estimates import Estimate
from ppl_vae.inference.hmc import State, Target, move
from ppl_vae.inference.tempered import increment


def forwards(target: Target, start: Tensor, sizes: Tensor, annealing: Annealing) -> Tensor:
    """log weights of chains from the prior to the posterior, (K, N): E[w] = p(x).

        log w = sum_{t=1}^T log f_t(u_{t-1}) - log f_{t-1}(u_{t-1}),    u_t from u_{t-1} by a move
                                                                        that leaves f_t as it is

    with f_t = p(z) p(x | z)^beta_t. That E[w] = p(x) holds for any step sizes that do not depend on
    the chains themselves.

    References:
        Neal, "Annealed importance sampling", Statistics and Computing, 2001,
        arXiv:physics/9803008, section 2.

    Args:
        target: The densities.
        start: Draws from the prior, (K, N, D).
        sizes: Step sizes of the moves, from `step_sizes`, shape (T - 1, N).
        annealing: The effort.
    """
    return _weights(target, start, annealing.betas().tolist(), sizes, annealing.leapfrog_steps)


def backwards(target: Target, start: Tensor, sizes: Tensor, annealing: Annealing) -> Tensor:
    """log weights of the same chains from the posterior to the prior, (K, N): E[w] = 1 / p(x).

    Moves satisfy detailed balance, so that each is its own reversal.

    Args:
        target: The densities.
        start: Draws from the posterior, (K, N, D).
        sizes: Step sizes of the moves, in the order of `forwards`.
        annealing: The effort.
    """
    betas = annealing.betas()[::-1].tolist()
    return _weights(target, start, betas, sizes.flip(0), annealing.leapfrog_steps)


def step_sizes(target: Target, start: Tensor, annealing: Annealing) -> Tensor:
    """The step size of each move and datum, (T - 1, N), found by chains of their own.

    These go along fewer temperatures, and change the step size of a datum after every move:
    log size += 1/2 (acceptance of its chains - 0.8). What they found is interpolated, and does not
    change in the run that is measured, where it could bias the weights.

    Args:
        target: The densities.
        start: Draws from the prior, (K, N, D), with which nothing else begins.
        annealing: The effort.
    """
    if annealing.temperatures == 1:
        return start.new_empty(0, start.shape[1])
    betas = annealing.adaptation_betas()[1:-1].tolist()
    log_size = torch.full_like(start[0, :, 0], FIRST_STEP_SIZE).log()
    state, found = State(start, target.terms(start)), []
    for beta in betas:
        state, probability = move(target, state, beta, log_size.exp(), annealing.leapfrog_steps)
        log_size = log_size + RATE * (probability.mean(0) - ACCEPTANCE)
        found.append(log_size)
    matrix = torch.as_tensor(annealing.interpolation()).to(log_size)
    return (matrix @ torch.stack(found)).exp()


def estimate(log_w: Tensor) -> Estimate:
    """log mean_k w_k of each datum from log weights (K, N)."""
    log_w = log_w.double()
    return Estimate.of_weights((log_w.logsumexp(0), (2 * log_w).logsumexp(0)), len(log_w))


def _weights(
    target: Target, start: Tensor, betas: Sequence[float], sizes: Tensor, steps: int
) -> Tensor:
    state = State(start, target.terms(start))
    log_w = increment(state.terms, betas[0], betas[1])
    moves: Iterator[tuple[float, float, Tensor]] = zip(betas[1:-1], betas[2:], sizes, strict=True)
    for beta, following, size in moves:
        state, _ = move(target, state, beta, size, steps)
        log_w = log_w + increment(state.terms, beta, following)
    return log_w
