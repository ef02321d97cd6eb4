"""Posteriors with parameters for each datum, as `ppl_vae.inference.evaluation.local_posteriors`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from ppl_vae.shared.evaluation.gaps import BLOCK, HIDDEN, LAYERS, MOST, TOLERANCE, LocalFit

Parameters = dict[str, Array]
LogJoint = Callable[[Array], Array]
"""log p(x, u) of positions (K, N, D): (K, N)."""


class Gaussian:
    """q(u) = N(loc, diag(scale)^2) for each of N data, u of shape (K, N, D).

    Subclasses put a map of the noise before the scale:

        u = loc + scale * f(e),    e ~ N(0, I)
    """

    def initial(self, loc: Array, scale: Array, *, key: Array) -> Parameters:
        """Parameters, (N, ...), with which q is this Gaussian."""
        return {"loc": loc, "log_scale": jnp.log(scale)}

    def draw(self, at: Parameters, noise: Array) -> Array:
        """u from e, both (K, N, D)."""
        return at["loc"] + jnp.exp(at["log_scale"]) * self.forwards(at, noise)

    def log_prob(self, at: Parameters, u: Array) -> Array:
        """log q(u), (K, N)."""
        noise, log_det = self.backwards(at, (u - at["loc"]) * jnp.exp(-at["log_scale"]))
        log_normal = -0.5 * (noise**2 + math.log(2 * math.pi)).sum(-1)
        return log_normal - log_det - at["log_scale"].sum(-1)

    def forwards(self, at: Parameters, noise: Array) -> Array:
        """f(e)."""
        return noise

    def backwards(self, at: Parameters, v: Array) -> tuple[Array, Array]:
        """e with f(e) = v, and log |df/de| there, which broadcasts against (K, N)."""
        return v, jnp.zeros_like(v[..., 0])


class FullGaussian(Gaussian):
    """A Gaussian with any covariance: f(e) = (I + B) e, B strictly below the diagonal."""

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
    """A Gaussian and affine coupling layers, whose networks each datum has for itself.

        f = f_L ... f_1,    f_l(v) = v on one half, v * exp(s(half)) + t(half) on the other

    The halves are even and odd entries in turn; s and t are networks of one hidden layer.

    References:
        Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", ICLR 2017,
        arXiv:1605.08803, section 3.2.
    """

    def initial(self, loc: Array, scale: Array, *, key: Array) -> Parameters:
        """f is the identity: the last weights of the networks are 0."""
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
    """log scale and shift of a layer, (K, N, D), both 0 on the half that they are made of."""
    kept = ((jnp.arange(v.shape[-1]) + layer) % 2).astype(v.dtype)
    hidden = jnp.einsum("knd,ndh->knh", v * kept, at["first"][:, layer])
    hidden = jnp.tanh(hidden + at["hidden"][:, layer])
    out = jnp.einsum("knh,nhd->knd", hidden, at["last"][:, layer]) + at["bias"][:, layer]
    log_scale, shift = ((1 - kept) * part for part in jnp.split(out, 2, -1))
    return MOST * jnp.tanh(log_scale / MOST), shift


LOCAL: dict[str, Gaussian] = {"gaussian": Gaussian(), "full": FullGaussian(), "flow": Flow()}


def fit(
    family: Gaussian, start: Parameters, log_joint: LogJoint, effort: LocalFit, *, key: Array
) -> Parameters:
    """The parameters of the best q of each datum, all data side by side.

    Gradients are those by the path of the draws alone, which have no variance where q is p(u | x).

    References:
        Roeder, Wu & Duvenaud, "Sticking the landing", NeurIPS 2017, arXiv:1703.09194.

    Args:
        family: What q are.
        start: Where they begin.
        log_joint: log p(x, u).
        effort: Of the optimisation.
        key: Random key of the draws.
    """
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
        failed = ~(mean > best + TOLERANCE)  # also if it is no number
        rate, best = jnp.where(failed, rate / 2, rate), jnp.fmax(best, mean)
        return at, state, rate, until, best, failures + failed

    def going_on(carry: Any) -> Array:
        *_, done, _, failures = carry
        more: Array = (done < effort.steps) & (failures < effort.patience)
        return more

    rate, least = jnp.asarray(effort.lr, dtype), jnp.asarray(-jnp.inf, dtype)
    nothing = jnp.zeros((), int)
    carry = start, adam.init(start), rate, nothing, least, nothing
    found: Parameters = lax.while_loop(going_on, block, carry)[0]
    return found
