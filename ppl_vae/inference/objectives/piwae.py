"""Separate importance-weighted bounds for model and guide."""

from torch import Tensor

from ppl_vae.inference.draws import Draws
from ppl_vae.inference.objectives.iwae import MIWAE, log_mean_exp
from ppl_vae.inference.objectives.parts.log_weights import log_guide
from ppl_vae.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.checks import check_whole


class PIWAE(PathObjective):
    """Importance-weighted bound with m k particles for the model, and the mean of m bounds with k
    particles for the guide.

        value:              L = log 1/(m k) sum_ji w_ji,   w_ji = p(x, z_ji) / q(z_ji | x)
        gradient, model:    sum_ji v_ji dlog p(x, z_ji),   v_ji = w_ji / sum_ab w_ab       (1)
        gradient, guide:    that of 1/m sum_j log 1/k sum_i w_ji                           (2)

    Both use all m k draws: the model gets the tighter bound, the guide the better signal. The
    reported value is minus L, summed over the data, which the model maximises. With m = 1 this is
    `IWAE(k)` for every draw; with k = 1 the guide's gradient is that of `ELBO(m)`.

    (1) is the direct dependence of log p(x, z) on parameters; (2) is the direct dependence of
    log q(z | x) and the path of the draws. So one loss has both gradients, in one backward pass.
    Latents that are not reparametrised have score-function gradients in (2), see `MultiSample`.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh, "Tighter variational bounds are not
        necessarily better", ICML 2018, arXiv:1802.04537, where it has the same name.

    Differs from the paper:
        Gradients are separated by density and not by a list of parameters, so a network shared by
        model and guide gets both.

    Args:
        m: Number of bounds of the guide.
        k: Number of particles of each.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `IWAE`.
    """

    def __init__(self, m: int, k: int, *, max_plate_nesting: int = 1) -> None:
        check_whole("m", m, 1)
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        self.m = m
        self.num_particles = m * k

    def value(self, log_w: Tensor) -> Tensor:
        return -log_mean_exp(log_w)

    def surrogate(self, draws: Draws, log_w: Tensor, scale: Tensor, paths: Paths) -> Tensor:
        of_all = MIWAE(self.m, self.k).loss_of(draws)
        numbers = log_w.detach()
        in_groups = numbers.reshape(self.m, self.k, -1).softmax(1) / self.m
        more = numbers.softmax(0) - in_groups.reshape(numbers.shape)
        log_p = log_w + log_guide(draws)
        # The model has (2) by now, and is to have (1).
        return of_all + paths.along(of_all) - (scale * more * log_p).sum()
