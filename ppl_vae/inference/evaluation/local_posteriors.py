"""Posteriors with separate parameters for each datum, for `gaps`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ppl_vae.shared.evaluation.local_fit import (
    HIDDEN,
    LAYERS,
    MAX_LOG_SCALE,
    TOLERANCE,
    LocalFit,
)

Parameters = dict[str, Tensor]
LogJoint = Callable[[Tensor], Tensor]
"""log p(x, u), (K, N), at positions (K, N, D)."""


class Gaussian:
    """q(u) = N(loc, diag(scale)^2) for each of N data, u of shape (K, N, D).

    Subclasses transform the noise before the scale:

        u = loc + scale * f(e),    e ~ N(0, I)
    """

    def initial(self, loc: Tensor, scale: Tensor) -> Parameters:
        """Return parameters, (N, ...), at which q is this Gaussian."""
        return {"loc": loc, "log_scale": scale.log()}

    def draw(self, at: Parameters, noise: Tensor) -> Tensor:
        """Return u for noise e, both (K, N, D)."""
        return at["loc"] + at["log_scale"].exp() * self.forwards(at, noise)

    def log_prob(self, at: Parameters, u: Tensor) -> Tensor:
        """Return log q(u), (K, N)."""
        noise, log_det = self.backwards(at, (u - at["loc"]) * (-at["log_scale"]).exp())
        log_normal = -0.5 * (noise**2 + math.log(2 * math.pi)).sum(-1)
        return log_normal - log_det - at["log_scale"].sum(-1)

    def forwards(self, at: Parameters, noise: Tensor) -> Tensor:
        """Return f(e)."""
        return noise

    def backwards(self, at: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return e with f(e) = v, and log |df/de| there, which broadcasts against (K, N)."""
        return v, torch.zeros_like(v[..., 0])


class FullGaussian(Gaussian):
    """A Gaussian with any covariance: f(e) = (I + B) e, B strictly below the diagonal."""

    def initial(self, loc: Tensor, scale: Tensor) -> Parameters:
        below = loc.new_zeros(*loc.shape, loc.shape[-1])
        return {**super().initial(loc, scale), "below": below}

    def forwards(self, at: Parameters, noise: Tensor) -> Tensor:
        return noise + torch.einsum("nij,knj->kni", at["below"].tril(-1), noise)

    def backwards(self, at: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        below, columns = at["below"].tril(-1), v.movedim(0, -1)
        noise = torch.linalg.solve_triangular(below, columns, upper=False, unitriangular=True)
        return noise.movedim(-1, 0), torch.zeros_like(v[..., 0])


class Flow(Gaussian):
    """A Gaussian with affine coupling layers, with separate networks for each datum.

        f = f_L ... f_1,    f_l(v) = v on one half, v * exp(s(half)) + t(half) on the other

    The halves are the even and the odd entries, alternating; s and t have one hidden layer.

    References:
        Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", ICLR 2017,
        arXiv:1605.08803, section 3.2.
    """

    def initial(self, loc: Tensor, scale: Tensor) -> Parameters:
        """Return parameters at which f is the identity: the last weights of the networks are 0."""
        n, dim = loc.shape
        first = torch.randn(LAYERS, dim, HIDDEN, dtype=loc.dtype, device=loc.device)
        return {
            **super().initial(loc, scale),
            "first": (first / (dim / 2) ** 0.5).expand(n, -1, -1, -1).clone(),
            "hidden": loc.new_zeros(n, LAYERS, HIDDEN),
            "last": loc.new_zeros(n, LAYERS, HIDDEN, 2 * dim),
            "bias": loc.new_zeros(n, LAYERS, 2 * dim),
        }

    def forwards(self, at: Parameters, noise: Tensor) -> Tensor:
        v = noise
        for layer, weights in enumerate(_layers(at)):
            log_scale, shift = _coupling(weights, layer, v)
            v = v * log_scale.exp() + shift
        return v

    def backwards(self, at: Parameters, v: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(v[..., 0])
        for layer, weights in reversed(list(enumerate(_layers(at)))):
            log_scale, shift = _coupling(weights, layer, v)
            v = (v - shift) * (-log_scale).exp()
            log_det = log_det + log_scale.sum(-1)
        return v, log_det


def _layers(at: Parameters) -> list[tuple[Tensor, ...]]:
    """Return the weights of each layer; indexing would compute a gradient of all layers."""
    names = ("first", "hidden", "last", "bias")
    return list(zip(*(at[name].unbind(1) for name in names), strict=True))


def _coupling(weights: tuple[Tensor, ...], layer: int, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return log scale and shift of a layer, (K, N, D), both 0 on the half they are computed of."""
    kept = ((torch.arange(v.shape[-1], device=v.device) + layer) % 2).to(v)
    first, of_hidden, last, bias = weights
    hidden = (torch.einsum("knd,ndh->knh", v * kept, first) + of_hidden).tanh()
    out = torch.einsum("knh,nhd->knd", hidden, last) + bias
    log_scale, shift = ((1 - kept) * part for part in out.chunk(2, -1))
    return MAX_LOG_SCALE * (log_scale / MAX_LOG_SCALE).tanh(), shift


LOCAL: dict[str, Gaussian] = {"gaussian": Gaussian(), "full": FullGaussian(), "flow": Flow()}


def fit(family: Gaussian, start: Parameters, log_joint: LogJoint, effort: LocalFit) -> Parameters:
    """Fit q to each datum, all data in parallel, and return its parameters.

    Path-derivative gradients have no variance where q is p(u | x).

    References:
        Roeder, Wu & Duvenaud, "Sticking the landing", NeurIPS 2017, arXiv:1703.09194.

    Args:
        family: The family of q.
        start: Initial parameters.
        log_joint: log p(x, u).
        effort: The effort of the optimisation.
    """
    at = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(at.values(), effort.lr)
    best, failures = -math.inf, 0
    for steps in effort.blocks:
        total = at["loc"].new_zeros(())
        for _ in range(steps):
            total += _step(family, at, log_joint, optimizer, effort.draws)
        mean = total.item() / (steps * len(at["loc"]))
        if not mean > best + TOLERANCE:  # also if it is NaN
            failures += 1
            optimizer.param_groups[0]["lr"] /= 2
        best = max(best, mean)
        if failures == effort.patience:
            break
    return {name: value.detach() for name, value in at.items()}


@torch.enable_grad()
def _step(
    family: Gaussian,
    at: Parameters,
    log_joint: LogJoint,
    optimizer: torch.optim.Optimizer,
    draws: int,
) -> Tensor:
    """Take a step of all q, and return the sum of their ELBOs."""
    loc = at["loc"]
    noise = torch.randn(draws, *loc.shape, dtype=loc.dtype, device=loc.device)
    u = family.draw(at, noise)
    fixed = {name: value.detach() for name, value in at.items()}
    bound = (log_joint(u) - family.log_prob(fixed, u)).mean(0).sum()
    # Not backward(), which would set gradients of the model's parameters.
    gradients = torch.autograd.grad(-bound, list(at.values()))
    for value, gradient in zip(at.values(), gradients, strict=True):
        value.grad = gradient
    optimizer.step()
    return bound.detach()
