"""See `ppl_vae.inference.evaluation.ais`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import logsumexp

from ppl_vae.numpyro.inference.evaluation.hmc import State, Target, move
from ppl_vae.numpyro.inference.evaluation.tempered import increment
from ppl_vae.shared.evaluation.annealing import ACCEPTANCE, FIRST_STEP_SIZE, RATE, Annealing


def forwards(
    target: Target, start: Array, sizes: Array, annealing: Annealing, *, key: Array
) -> Array:
    """See `ppl_vae.inference.evaluation.ais.forwards`."""
    return _weights(target, start, annealing.betas(), sizes, annealing.leapfrog_steps, key)


def backwards(
    target: Target, start: Array, sizes: Array, annealing: Annealing, *, key: Array
) -> Array:
    """See `ppl_vae.inference.evaluation.ais.backwards`."""
    betas = annealing.betas()[::-1]
    return _weights(target, start, betas, sizes[::-1], annealing.leapfrog_steps, key)


def step_sizes(target: Target, start: Array, annealing: Annealing, *, key: Array) -> Array:
    """See `ppl_vae.inference.evaluation.ais.step_sizes`."""

    def step(carry: tuple[State, Array], given: Any) -> tuple[tuple[State, Array], Array]:
        (state, log_size), (beta, key) = carry, given
        steps = annealing.leapfrog_steps
        state, probability = move(target, state, beta, jnp.exp(log_size), steps, key)
        log_size = log_size + RATE * (probability.mean(0) - ACCEPTANCE)
        return (state, log_size), log_size

    dtype = start.dtype
    if annealing.temperatures == 1:
        return jnp.empty((0, start.shape[1]), dtype)
    betas = jnp.asarray(annealing.adaptation_betas()[1:-1], dtype)
    log_size = jnp.full(start.shape[1], FIRST_STEP_SIZE, dtype)
    first = State(start, target.terms(start)), jnp.log(log_size)
    _, log_sizes = lax.scan(step, first, (betas, jax.random.split(key, len(betas))))
    return jnp.exp(jnp.asarray(annealing.interpolation(), dtype) @ log_sizes)


def sums(log_w: Array) -> tuple[Array, Array]:
    """Return log sum_k w_k and log sum_k w_k^2 of each datum from log weights (K, N)."""
    return jnp.asarray(logsumexp(log_w, axis=0)), jnp.asarray(logsumexp(2 * log_w, axis=0))


def _weights(
    target: Target, start: Array, betas: np.ndarray, sizes: Array, steps: int, key: Array
) -> Array:
    def step(carry: tuple[State, Array], given: Any) -> tuple[tuple[State, Array], None]:
        (state, log_w), (beta, following, size, key) = carry, given
        state, _ = move(target, state, beta, size, steps, key)
        return (state, log_w + increment(state.terms, beta, following)), None

    at = jnp.asarray(betas, start.dtype)
    state = State(start, target.terms(start))
    first = state, increment(state.terms, at[0], at[1])
    moves = at[1:-1], at[2:], sizes, jax.random.split(key, len(sizes))
    (_, log_w), _ = lax.scan(step, first, moves)
    return log_w
