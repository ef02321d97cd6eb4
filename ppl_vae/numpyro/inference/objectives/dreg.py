"""See `ppl_vae.inference.objectives.dreg`."""

from abc import abstractmethod

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws
from ppl_vae.numpyro.inference.objectives.iwae import log_mean_exp
from ppl_vae.numpyro.inference.objectives.parts.log_weights import check_reparametrised
from ppl_vae.numpyro.inference.objectives.parts.path_gradients import PathObjective, Paths


class _PathGradient(PathObjective):
    def check_draws(self, draws: Draws) -> None:
        super().check_draws(draws)
        check_reparametrised(draws)

    @abstractmethod
    def weights(self, log_w: Array) -> tuple[Array, Array]:
        """Compute weights of dlog p(x, z_i) by parameters and of dlog w_i by z_i, (K, N) each."""

    def surrogate(self, draws: Draws, log_w: Array, scale: Array, paths: Paths) -> Array:
        of_model, of_guide = self.weights(lax.stop_gradient(log_w))
        log_p = log_w + paths.log_q
        return -((scale * of_model * log_p).sum() + paths.along(scale * of_guide))


class STL(_PathGradient):
    """See `ppl_vae.inference.STL`."""

    def __init__(self, k: int = 1, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)

    def value(self, log_w: Array) -> Array:
        return -log_w.mean(0)

    def weights(self, log_w: Array) -> tuple[Array, Array]:
        mean = jnp.full_like(log_w, 1 / self.k)
        return mean, mean


class DReG(_PathGradient):
    """See `ppl_vae.inference.DReG`."""

    def value(self, log_w: Array) -> Array:
        return -log_mean_exp(log_w)

    def weights(self, log_w: Array) -> tuple[Array, Array]:
        share = jax.nn.softmax(log_w, axis=0)
        return share, share**2
