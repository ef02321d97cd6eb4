"""Importance-weighted bounds."""

import math

import torch
from torch import Tensor

from ppl_vae.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.shared.checks import check_fraction, check_whole


class IWAE(MultiSample):
    """Negative importance-weighted bound with K particles for each datum, also for discrete latents
    and under subsampling.

        L_K = E_{z_1 ... z_K ~ q(z | x)} [log 1/K sum_i w_i],   w_i = p(x, z_i) / q(z_i | x)

    ELBO = L_1 <= L_K <= L_{K+1} <= log p(x). See `MultiSample` for scales and gradients.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, equation 8.

    Args:
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) A site lies outside the data plate or is enumerated by the guide,
            sites differ in their scale, or there is no latent site.
    """

    def bound(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(log_w)


class MIWAE(MultiSample):
    """Negative mean of m importance-weighted bounds with k particles each.

        1/m sum_j log 1/k sum_i w_ij

    Its expectation is that of `IWAE(k)`; the guide's gradients have a higher signal-to-noise ratio
    than those of one bound with m k particles.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh, "Tighter variational bounds are not
        necessarily better", ICML 2018, arXiv:1802.04537, where it has the same name.

    Args:
        m: Number of bounds.
        k: Number of particles of each.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `IWAE`.
    """

    def __init__(self, m: int, k: int, *, max_plate_nesting: int = 1) -> None:
        check_whole("m", m, 1)
        super().__init__(k, groups=m, max_plate_nesting=max_plate_nesting)
        self.m = m

    def bound(self, log_w: Tensor) -> Tensor:
        return log_mean_exp(log_w)


class CIWAE(MultiSample):
    """Negative combination beta ELBO + (1 - beta) L_K of the ELBO and the importance-weighted
    bound, from the same k particles.

        beta 1/k sum_i log w_i + (1 - beta) log 1/k sum_i w_i

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh, "Tighter variational bounds are not
        necessarily better", ICML 2018, arXiv:1802.04537, where it has the same name.

    Args:
        beta: Weight of the ELBO, in [0, 1].
        k: Number of particles.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `IWAE`.
    """

    def __init__(self, beta: float, k: int, *, max_plate_nesting: int = 1) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_fraction("beta", beta)
        self.beta = beta

    def bound(self, log_w: Tensor) -> Tensor:
        return self.beta * log_w.mean(-2) + (1 - self.beta) * log_mean_exp(log_w)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """Return log 1/K sum_i exp(log_w_i) over dimension -2: (..., K, N) -> (..., N).

    The gradient of `torch.logsumexp` is exp(log_w - its result), which is off by the rounding of a
    result of -1e4 (a thousandth of each share) unless the largest weight is subtracted before.
    """
    most = log_w.detach().amax(-2)
    most = torch.where(most.isfinite(), most, 0.0)
    return most + (log_w - most[..., None, :]).logsumexp(-2) - math.log(log_w.shape[-2])
