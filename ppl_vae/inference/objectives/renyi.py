"""Bounds from Renyi's alpha-divergence and the chi divergence."""

import math

import torch
from torch import Tensor

from ppl_vae.inference.draws import Draws
from ppl_vae.inference.objectives.iwae import log_mean_exp
from ppl_vae.inference.objectives.parts.log_weights import latents, log_guide
from ppl_vae.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.objectives.renyi import check_alpha, check_order


class Renyi(MultiSample):
    """Negative variational Renyi bound; alpha = 0 is IWAE, minus infinity the largest weight.

        L_alpha = 1 / (1 - alpha) log 1/K sum_i w_i^(1 - alpha),   w_i = p(x, z_i) / q(z_i | x)

    alpha = 0 is `IWAE`, alpha -> 1 the ELBO, and alpha = -inf the largest log w_i (VR-max). The
    larger alpha, the lower the bound; for alpha < 0 it is an upper bound of log p(x) as K grows,
    but with few particles it can lie below.

    References:
        Li & Turner, "Rényi divergence variational inference", 2016, arXiv:1602.02311, sections 3,
        4.1 (K draws) and 4.2 (VR-max).

    Differs from the paper:
        Gradients use all K particles; for a finite alpha the paper also has a variant that
        backpropagates through one of them, drawn by its weight.

    Args:
        alpha: Any number but 1, or `float("-inf")`.
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: alpha is 1 or invalid; (when used) as for `IWAE`.
    """

    def __init__(self, alpha: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_alpha(alpha)
        self.alpha = alpha

    def bound(self, log_w: Tensor) -> Tensor:
        if math.isinf(self.alpha):
            return log_w.amax(-2)
        power = 1 - self.alpha
        most = (log_w.amax(-2) if power > 0 else log_w.amin(-2)).detach()
        below = power * (log_w - most.unsqueeze(-2))
        less = below.expm1().mean(-2)  # accurate for alpha near 1, the ELBO
        log_mean = torch.where(less > -0.5, less.log1p(), below.exp().mean(-2).log())
        return most + log_mean / power


class CUBO(PathObjective):
    """Chi upper bound of log p(x), which the guide minimises; the model gets no gradient.

        CUBO_n = 1/n log E_q[w^n],   w = p(x, z) / q(z | x)

    It is estimated by 1/n log 1/K sum_i w_i^n, which underestimates it on average, and with few
    particles can lie below log p(x). The gradient by the guide's parameters phi is estimated by

        (1 - n) sum_i v_i dlog w_i/dz dz/dphi,   v_i = w_i^n / sum_j w_j^n                  (1)

    or, if a latent cannot be reparametrised, by

        (1 - n) / n sum_i v_i dlog q(z_i | x)/dphi                                         (2)

    The model is fixed: its parameters should maximise a lower bound, and get no gradient from this
    upper one. Freeze them with `requires_grad_(False)`.

    References:
        Dieng, Tran, Ranganath, Paisley & Blei, "Variational inference via chi upper bound
        minimization", 2017, arXiv:1611.00328, section 2 and algorithm 1 (2).
        Tucker, Lawson, Gu & Maddison, "Doubly reparameterized gradient estimators for Monte Carlo
        objectives", 2019, arXiv:1810.04152, section 3 (from 2 to 1).

    Differs from the paper:
        exp(n CUBO_n), whose estimate 1/K sum_i w_i^n is unbiased, spans hundreds of nats between
        data. The paper divides by the largest weight of a step; here the weights of each datum are
        normalised: the gradient of CUBO_n itself, with a bias of order 1/K.

    Args:
        n: Order of the bound, above 1.
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `IWAE`.
    """

    def __init__(self, n: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_order(n)
        self.n = n

    def value(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(self.n * log_w) / self.n

    def surrogate(self, draws: Draws, log_w: Tensor, scale: Tensor, paths: Paths) -> Tensor:
        weight = (1 - self.n) * scale * (self.n * log_w.detach()).softmax(0)
        if any(site.needs_score_function for site in latents(draws)):
            return (weight * log_guide(draws)).sum() / self.n  # (2)
        return paths.along((weight * log_w).sum())  # (1)
