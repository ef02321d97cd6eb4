"""Hamiltonian moves of many chains at once, as `ppl_vae.inference.evaluation.hmc`."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.evaluation.tempered import Terms, tempered
from ppl_vae.shared.evaluation.annealing import JITTER


class Target(Protocol):
    """What a move asks of the density f_beta; see `tempered.Tempered`."""

    def terms(self, position: Array) -> Terms:
        """The terms of log f_beta at positions (K, N, D)."""

    def gradient(self, position: Array, beta: Array) -> Array:
        """The gradient of log f_beta there."""


class State(NamedTuple):
    """Chains at positions of shape (K, N, D), and the terms of log f_beta there."""

    position: Array
    terms: Terms


def move(
    target: Target, state: State, beta: Array, step_size: Array, steps: int, key: Array
) -> tuple[State, Array]:
    """A Hamiltonian move of every chain, which leaves f_beta as it is.

    Args:
        target: The density.
        state: Where the chains are.
        beta: Of the density that is left as it is.
        step_size: Of the leapfrog, for each datum, shape (N,).
        steps: Number of leapfrog steps.
        key: Random key of the move.

    Returns:
        Where the chains are then, and the probability of acceptance of each, (K, N).
    """
    keys = jax.random.split(key, 3)
    position, dtype = state.position, state.position.dtype
    momentum = jax.random.normal(keys[0], position.shape, dtype)
    jitter, uniform = (jax.random.uniform(k, position.shape[:-1], dtype) for k in keys[1:])
    size = step_size * (1 + JITTER * (2 * jitter - 1))
    position, after = leapfrog(
        lambda at: target.gradient(at, beta), position, momentum, size[..., None], steps
    )
    new = State(position, target.terms(position))
    log_f, kinetic = tempered(new.terms, beta), 0.5 * (momentum**2 - after**2).sum(-1)
    log_ratio = log_f - tempered(state.terms, beta) + kinetic
    probability = jnp.exp(jnp.minimum(log_ratio, 0))
    # Also because the minimum of NaN and 0 can be 0 in a compiled program.
    probability = jnp.where(jnp.isfinite(log_f + kinetic), probability, 0)
    return _choose(uniform < probability, new, state), probability


def leapfrog(
    gradient: Callable[[Array], Array],
    position: Array,
    momentum: Array,
    step_size: Array,
    steps: int,
) -> tuple[Array, Array]:
    """Hamiltonian dynamics, reversible and of constant volume, with a gradient for each step.

    A step is half a step of the position, one of the momentum, and half a step of the position;
    halves that meet are one. So the ends of a trajectory need no gradient.
    """

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        position, momentum = state
        momentum = momentum + step_size * gradient(position)
        return position + step_size * momentum, momentum

    start = position + 0.5 * step_size * momentum, momentum
    position, momentum = lax.fori_loop(0, steps, step, start)
    return position - 0.5 * step_size * momentum, momentum


def _choose(first: Array, one: State, other: State) -> State:
    """`one` where `first`, else `other`: (K, N) broadcasts against terms of shape (..., K, N)."""
    prior, likelihood = (
        jnp.where(first, *pair) for pair in zip(one.terms, other.terms, strict=True)
    )
    return State(jnp.where(first[..., None], one.position, other.position), (prior, likelihood))
