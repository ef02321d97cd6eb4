"""See `ppl_vae.inference.objectives.piwae`."""

import jax
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws
from ppl_vae.numpyro.inference.objectives.iwae import MIWAE, log_mean_exp
from ppl_vae.numpyro.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.checks import check_whole


class PIWAE(PathObjective):
    """See `ppl_vae.inference.PIWAE`."""

    def __init__(self, m: int, k: int, *, max_plate_nesting: int = 1) -> None:
        check_whole("m", m, 1)
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.m = m
        self.num_particles = m * k

    def value(self, log_w: Array) -> Array:
        return -log_mean_exp(log_w)

    def surrogate(self, draws: Draws, log_w: Array, scale: Array, paths: Paths) -> Array:
        of_all = MIWAE(self.m, self.k).loss_of(draws)  # these draws have their paths
        numbers = lax.stop_gradient(log_w)
        in_groups = jax.nn.softmax(numbers.reshape(self.m, self.k, -1), axis=1) / self.m
        more = jax.nn.softmax(numbers, axis=0) - in_groups.reshape(numbers.shape)
        log_p = log_w + paths.log_q
        # The model has the gradient of m bounds by now, and is to have that of one.
        return of_all - (scale * more * log_p).sum()
