"""See `ppl_vae.inference.objectives.renyi`."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws
from ppl_vae.numpyro.inference.objectives.iwae import log_mean_exp
from ppl_vae.numpyro.inference.objectives.parts.log_weights import latents
from ppl_vae.numpyro.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.numpyro.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.objectives.renyi import check_alpha, check_order


class Renyi(MultiSample):
    """See `ppl_vae.inference.Renyi`."""

    def __init__(self, alpha: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_alpha(alpha)
        self.alpha = alpha

    def bound(self, log_w: Array) -> Array:
        if math.isinf(self.alpha):
            # Compiled, max may find no log weight equal to the largest: a gradient of 0 / 0.
            largest = lax.stop_gradient(log_w).argmax(-2, keepdims=True)
            return jnp.take_along_axis(log_w, largest, -2).squeeze(-2)
        power = 1 - self.alpha
        numbers = lax.stop_gradient(log_w)
        most = numbers.max(-2) if power > 0 else numbers.min(-2)
        below = power * (log_w - most[..., None, :])
        less = jnp.expm1(below).mean(-2)  # has many digits where alpha is near 1, the ELBO
        log_mean = jnp.where(less > -0.5, jnp.log1p(less), jnp.log(jnp.exp(below).mean(-2)))
        return most + log_mean / power


class CUBO(PathObjective):
    """See `ppl_vae.inference.CUBO`."""

    def __init__(self, n: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_order(n)
        self.n = n

    def value(self, log_w: Array) -> Array:
        most = log_w.max(-2)
        return most + log_mean_exp(self.n * (log_w - most[..., None, :])) / self.n

    def surrogate(self, draws: Draws, log_w: Array, scale: Array, paths: Paths) -> Array:
        numbers = lax.stop_gradient(log_w)
        share = jax.nn.softmax(self.n * (numbers - numbers.max(0)), axis=0)
        weight = (1 - self.n) * scale * share
        if any(site.needs_score_function for site in latents(draws)):
            return (weight * paths.log_q).sum() / self.n
        return paths.along(weight)
