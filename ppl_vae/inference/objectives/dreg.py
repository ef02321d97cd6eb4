"""Objectives with pathwise gradients of the guide: STL and DReG."""

from abc import abstractmethod

import torch
from torch import Tensor

from ppl_vae.inference.draws import Draws
from ppl_vae.inference.objectives.iwae import log_mean_exp
from ppl_vae.inference.objectives.parts.log_weights import check_reparametrised, log_guide
from ppl_vae.inference.objectives.parts.path_gradients import PathObjective, Paths


class _PathGradient(PathObjective):
    """Negative bound with weighted sums over particles as gradients, of p and of paths of q."""

    def check_draws(self, draws: Draws) -> None:
        super().check_draws(draws)
        check_reparametrised(draws)

    @abstractmethod
    def weights(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Compute weights of dlog p(x, z_i) by parameters and of dlog w_i by z_i, (K, N) each."""

    def surrogate(self, draws: Draws, log_w: Tensor, scale: Tensor, paths: Paths) -> Tensor:
        of_model, of_guide = self.weights(log_w.detach())
        log_p = log_w + log_guide(draws)
        path = paths.along((scale * of_guide * log_w).sum())
        return -((scale * of_model * log_p).sum() + path)


class STL(_PathGradient):
    """Negative ELBO with pathwise gradients of the guide ("sticking the landing"), zero at the
    posterior.

        value:              1/K sum_i log w_i,   w_i = p(x, z_i) / q(z_i | x)
        gradient, guide:    1/K sum_i dlog w_i/dz_i dz_i/dphi
        gradient, model:    1/K sum_i dlog p(x, z_i)/dtheta

    The score dlog q(z_i | x)/dphi, whose expectation is 0, is left out: at the posterior,
    q(z | x) = p(z | x), the guide's gradient is exactly 0 for every draw.

    Draws are detached from the guide's parameters, densities are not (`path_gradients.Paths`), so
    any guide can be used: modules, functions with `pyro.param`, hierarchical latents, networks
    shared by p and q. Flows must be invertible at a given z.

    References:
        Roeder, Wu & Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators for
        variational inference", 2017, arXiv:1703.09194, algorithm 2.

    Args:
        k: Number of particles to average over.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `IWAE`, or a latent site is not reparametrised.
    """

    def __init__(self, k: int = 1, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)

    def value(self, log_w: Tensor) -> Tensor:
        return -log_w.mean(0)

    def weights(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.full_like(log_w, 1 / self.k)
        return mean, mean


class DReG(_PathGradient):
    """Negative importance-weighted bound with doubly reparametrised gradients of the guide.

        value:              log 1/K sum_i w_i,   w_i = p(x, z_i) / q(z_i | x)
        gradient, guide:    sum_i v_i^2 dlog w_i/dz_i dz_i/dphi,   v_i = w_i / sum_j w_j
        gradient, model:    sum_i v_i dlog p(x, z_i)/dtheta

    In expectation these are the gradients of `IWAE`; the signal-to-noise ratio of the guide's grows
    with K.

    References:
        Tucker, Lawson, Gu & Maddison, "Doubly reparameterized gradient estimators for Monte Carlo
        objectives", 2019, arXiv:1810.04152, section 3.
        Several latent sites, with paths from one into the next: Bauer & Mnih, "Generalized doubly
        reparameterized gradient estimators", ICML 2021.

    Args:
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `STL`.
    """

    def value(self, log_w: Tensor) -> Tensor:
        return -log_mean_exp(log_w)

    def weights(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        share = log_w.softmax(0)
        return share, share**2
