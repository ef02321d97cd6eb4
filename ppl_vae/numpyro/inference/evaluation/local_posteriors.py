"""See `ppl_vae.inference.evaluation.local_posteriors`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from ppl_vae.shared.evaluation.local_fit import (
    BLOCK,
    HIDDEN,
    LAYERS,
    MAX_LOG_SCALE,
    TOLERANCE,
    LocalFit,
)

Parameters = dict[str, Array]
LogJoint = Callable[[Array], Array]
"""log p(x, u), (K, N), at positions (K, N, D)."""


class Gaussian:
    """See `ppl_vae.inference.evaluation.local_posteriors.Gaussian`."""

    def initial(self, loc: Array, scale: Array, *, key: Array) -> Parameters:
        """Return parameters, (N, ...), at which q is this Gaussian."""
        return {"loc": loc, "log_scale": jnp.log(scale)}

    def draw(self, at: Parameters, noise: Array) -> Array:
        """Return u for noise e, both (K, N, D)."""
        return at["loc"] + jnp.exp(at["log_scale"]) * self.forwards(at, noise)

    def log_prob(self, at: Parameters, u: Array) -> Array:
        """Return log q(u), (K, N)."""
        noise, log_det = self.backwards(at, (u - at["loc"]) * jnp.exp(-at["log_scale"]))
        log_normal = -0.5 * (noise**2 + math.log(2 * math.pi)).sum(-1)
        return log_normal - log_det - at["log_scale"].sum(-1)

    def forwards(self, at: Parameters, noise: Array) -> Array:
        """Return f(e)."""
        return noise

    def backwards(self, at: Parameters, v: Array) -> tuple[Array, Array]:
        """Return e with f(e) = v, and log |df/de| there, which broadcasts against (K, N)."""
        return v, jnp.zeros_like(v[..., 0])


class FullGaussian(Gaussian):
    """See `ppl_vae.inference.evaluation.local_posteriors.FullGaussian`."""

    def initial(self, loc: Array, scale: Array, *, key: Array) -> Parameters:
        below = jnp.zeros((*loc.shape, loc.shape[-1]), loc.dtype)
        return {**super().initial(loc, scale, key=key), "below": below}

    def forwards(self, at: Parameters, noise: Array) -> Array:
        return noise + jnp.einsum("nij,knj->kni", jnp.tril(at["below"], -1), noise)

    def backwards(self, at: Parameters, v: Array) -> tuple[Array, Array]:
        below, columns = jnp.tril(at["below"], -1), jnp.moveaxis(v, 0, -1)
        noise = solve_triangular(below, columns, lower=True, unit_diagonal=True)
        return jnp.moveaxis(noise, -1, 0), jnp.zeros_like(v[..., 0])


class Flow(Gaussian):
    """See `ppl_vae.inference.evaluation.local_posteriors.Flow`."""

    def initial(self, loc: Array, scale: Array, *, key: Array) -> Parameters:
        """Return parameters at which f is the identity: the last weights of the networks are 0."""
        n, dim = loc.shape
        dtype = loc.dtype
        first = jax.random.normal(key, (LAYERS, dim, HIDDEN), dtype) / (dim / 2) ** 0.5
        return {
            **super().initial(loc, scale, key=key),
            "first": jnp.broadcast_to(first, (n, *first.shape)),
            "hidden": jnp.zeros((n, LAYERS, HIDDEN), dtype),
            "last": jnp.zeros((n, LAYERS, HIDDEN, 2 * dim), dtype),
            "bias": jnp.zeros((n, LAYERS, 2 * dim), dtype),
        }

    def forwards(self, at: Parameters, noise: Array) -> Array:
        v = noise
        for layer in range(LAYERS):
            log_scale, shift = _coupling(at, layer, v)
            v = v * jnp.exp(log_scale) + shift
        return v

    def backwards(self, at: Parameters, v: Array) -> tuple[Array, Array]:
        log_det = jnp.zeros_like(v[..., 0])
        for layer in reversed(range(LAYERS)):
            log_scale, shift = _coupling(at, layer, v)
            v = (v - shift) * jnp.exp(-log_scale)
            log_det = log_det + log_scale.sum(-1)
        return v, log_det


def _coupling(at: Parameters, layer: int, v: Array) -> tuple[Array, Array]:
    """Return log scale and shift of a layer, (K, N, D), both 0 on the half they are computed of."""
    kept = ((jnp.arange(v.shape[-1]) + layer) % 2).astype(v.dtype)
    hidden = jnp.einsum("knd,ndh->knh", v * kept, at["first"][:, layer])
    hidden = jnp.tanh(hidden + at["hidden"][:, layer])
    out = jnp.einsum("knh,nhd->knd", hidden, at["last"][:, layer]) + at["bias"][:, layer]
    log_scale, shift = ((1 - kept) * part for part in jnp.split(out, 2, -1))
    return MAX_LOG_SCALE * jnp.tanh(log_scale / MAX_LOG_SCALE), shift


LOCAL: dict[str, Gaussian] = {"gaussian": Gaussian(), "full": FullGaussian(), "flow": Flow()}


def fit(
    family: Gaussian, start: Parameters, log_joint: LogJoint, effort: LocalFit, *, key: Array
) -> Parameters:
    """See `ppl_vae.inference.evaluation.local_posteriors.fit`."""
    adam = optax.scale_by_adam()
    shape, dtype = start["loc"].shape, start["loc"].dtype

    def loss(at: Parameters, noise: Array) -> Array:
        u = family.draw(at, noise)
        log_q = family.log_prob(lax.stop_gradient(at), u)
        return -(log_joint(u) - log_q).mean(0).sum()

    def step(number: Array, carry: Any) -> Any:
        at, state, rate, total = carry
        noise = jax.random.normal(jax.random.fold_in(key, number), (effort.draws, *shape), dtype)
        value, gradient = jax.value_and_grad(loss)(at, noise)
        update, state = adam.update(gradient, state)
        at = {name: value - rate * update[name] for name, value in at.items()}
        return at, state, rate, total - value

    def block(carry: Any) -> Any:
        at, state, rate, done, best, failures = carry
        until = jnp.minimum(done + BLOCK, effort.steps)
        first = at, state, rate, jnp.zeros((), dtype)
        at, state, _, total = lax.fori_loop(done, until, step, first)
        mean = total / ((until - done) * shape[0])
        failed = ~(mean > best + TOLERANCE)  # also if it is NaN
        rate, best = jnp.where(failed, rate / 2, rate), jnp.fmax(best, mean)
        return at, state, rate, until, best, failures + failed

    def unfinished(carry: Any) -> Array:
        *_, done, _, failures = carry
        more: Array = (done < effort.steps) & (failures < effort.patience)
        return more

    rate, lowest = jnp.asarray(effort.lr, dtype), jnp.asarray(-jnp.inf, dtype)
    zero = jnp.zeros((), int)
    carry = start, adam.init(start), rate, zero, lowest, zero
    fitted: Parameters = lax.while_loop(unfinished, block, carry)[0]
    return fitted
