"""See `ppl_vae.inference.evaluation.hmc`."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.evaluation.tempered import Terms, tempered
from ppl_vae.shared.evaluation.annealing import JITTER


class Target(Protocol):
    """See `ppl_vae.inference.evaluation.hmc.Target`."""

    def terms(self, position: Array) -> Terms:
        """Return the terms of log f_beta at positions (K, N, D)."""

    def gradient(self, position: Array, beta: Array) -> Array:
        """Return the gradient of log f_beta at positions (K, N, D)."""


class State(NamedTuple):
    """See `ppl_vae.inference.evaluation.hmc.State`."""

    position: Array
    terms: Terms


def move(
    target: Target, state: State, beta: Array, step_size: Array, steps: int, key: Array
) -> tuple[State, Array]:
    """See `ppl_vae.inference.evaluation.hmc.move`."""
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
    # In a compiled program the minimum of NaN and 0 can be 0.
    probability = jnp.where(jnp.isfinite(log_f + kinetic), probability, 0)
    return _where(uniform < probability, new, state), probability


def leapfrog(
    gradient: Callable[[Array], Array],
    position: Array,
    momentum: Array,
    step_size: Array,
    steps: int,
) -> tuple[Array, Array]:
    """See `ppl_vae.inference.evaluation.hmc.leapfrog`."""

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        position, momentum = state
        momentum = momentum + step_size * gradient(position)
        return position + step_size * momentum, momentum

    start = position + 0.5 * step_size * momentum, momentum
    position, momentum = lax.fori_loop(0, steps, step, start)
    return position - 0.5 * step_size * momentum, momentum


def _where(accepted: Array, one: State, other: State) -> State:
    """Return `one` where `accepted`, (K, N), else `other`; terms have shape (..., K, N)."""
    prior, likelihood = (
        jnp.where(accepted, *pair) for pair in zip(one.terms, other.terms, strict=True)
    )
    return State(jnp.where(accepted[..., None], one.position, other.position), (prior, likelihood))
