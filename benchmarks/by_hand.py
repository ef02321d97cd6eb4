"""The same losses in plain torch, for comparisons of speed: each is a `forward(x)`."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXELS = 784


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    target = x.expand_as(logits)
    return -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)


def softplus_mlp(*sizes: int) -> nn.Sequential:
    """Linear layers, all but the last followed by softplus."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Softplus()]
    return nn.Sequential(*layers[:-1])


class VAEByHand(nn.Module):
    """784-H-...-H-50: minus the ELBO, or with k particles minus the importance weighted bound."""

    def __init__(self, hidden: tuple[int, ...], k: int = 1, z_dim: int = 50) -> None:
        super().__init__()
        self.k = k
        self.encoder = nn.Sequential(softplus_mlp(PIXELS, *hidden), nn.Softplus())
        self.loc, self.log_var = nn.Linear(hidden[-1], z_dim), nn.Linear(hidden[-1], z_dim)
        self.decoder = softplus_mlp(z_dim, *hidden[::-1], PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        loc, log_var = self.loc(h), self.log_var(h)
        shape = loc.shape if self.k == 1 else (self.k, *loc.shape)
        noise = torch.randn(shape, dtype=x.dtype, device=x.device)
        z = loc + (0.5 * log_var).exp() * noise
        log_w = log_bernoulli(self.decoder(z), x) + 0.5 * (noise**2 + log_var - z**2).sum(-1)
        if self.k > 1:
            log_w = log_w.logsumexp(0) - math.log(self.k)
        return -log_w.mean()


class M2ByHand(nn.Module):
    """M2 784-500-500-50 on unlabelled data, x copied for each of ten classes."""

    def __init__(self, hidden: int = 500, z_dim: int = 50, n_classes: int = 10) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.classifier = softplus_mlp(PIXELS, hidden, hidden, n_classes)
        self.encoder = nn.Sequential(
            softplus_mlp(PIXELS + n_classes, hidden, hidden), nn.Softplus()
        )
        self.loc, self.log_var = nn.Linear(hidden, z_dim), nn.Linear(hidden, z_dim)
        self.decoder = softplus_mlp(z_dim + n_classes, hidden, hidden, PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        log_q = F.log_softmax(self.classifier(x), -1)
        total = x.new_zeros(len(x))
        for y in range(self.n_classes):
            label = torch.full((len(x),), y, device=x.device)
            one_hot = F.one_hot(label, self.n_classes).to(x.dtype)
            h = self.encoder(torch.cat([x, one_hot], -1))
            loc, log_var = self.loc(h), self.log_var(h)
            noise = torch.randn_like(loc)
            z = loc + (0.5 * log_var).exp() * noise
            bound = log_bernoulli(self.decoder(torch.cat([z, one_hot], -1)), x)
            bound = bound + 0.5 * (noise**2 + log_var - z**2).sum(-1) - math.log(self.n_classes)
            total = total + log_q[:, y].exp() * (bound - log_q[:, y])
        return -total.mean()


class LadderByHand(nn.Module):
    """The ladder VAE with five layers and no batch normalisation, minus the ELBO."""

    def __init__(self) -> None:
        super().__init__()
        z_dims, hidden = (64, 32, 16, 8, 4), (512, 256, 128, 64, 32)
        self.up, self.up_heads, self.down, self.down_heads = (nn.ModuleList() for _ in range(4))
        below = PIXELS
        for z_dim, size in zip(z_dims, hidden, strict=True):
            self.up.append(_leaky(below, size))
            self.up_heads.append(nn.Linear(size, 2 * z_dim))
            below = size
        for layer in range(4):
            self.down.append(_leaky(z_dims[layer + 1], hidden[layer + 1]))
            self.down_heads.append(nn.Linear(hidden[layer + 1], 2 * z_dims[layer]))
        self.decoder = nn.Sequential(_leaky(z_dims[0], hidden[0]), nn.Linear(hidden[0], PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        h, seen = x, []
        for trunk, head in zip(self.up, self.up_heads, strict=True):
            h = trunk(h)
            seen.append(head(h).chunk(2, -1))
        loc, log_var = seen[-1]
        z = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
        total = _log_normal(z, x.new_zeros(()), x.new_zeros(())) - _log_normal(z, loc, log_var)
        for layer in range(3, -1, -1):
            p_loc, p_log_var = self.down_heads[layer](self.down[layer](z)).chunk(2, -1)
            d_loc, d_log_var = seen[layer]
            p_precision, d_precision = (-p_log_var).exp(), (-d_log_var).exp()
            precision = p_precision + d_precision
            loc = (p_loc * p_precision + d_loc * d_precision) / precision
            log_var = -precision.log()
            z = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
            total = total + _log_normal(z, p_loc, p_log_var) - _log_normal(z, loc, log_var)
        return -(total + log_bernoulli(self.decoder(z), x)).mean()


def _leaky(before: int, size: int) -> nn.Sequential:
    layers = nn.Linear(before, size), nn.LeakyReLU(), nn.Linear(size, size), nn.LeakyReLU()
    return nn.Sequential(*layers)


def _log_normal(z: Tensor, loc: Tensor, log_var: Tensor) -> Tensor:
    terms = (z - loc) ** 2 * (-log_var).exp() + log_var + math.log(2 * math.pi)
    return -0.5 * terms.sum(-1)


class SBNByHand(nn.Module):
    """A linear sigmoid belief network 200-200-200 under VIMCO."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.up = nn.ModuleList(nn.Linear(n, 200) for n in (PIXELS, 200, 200))
        self.down = nn.ModuleList(nn.Linear(200, n) for n in (PIXELS, 200, 200))
        self.prior = nn.Parameter(torch.zeros(200))

    def forward(self, x: Tensor) -> Tensor:
        value, log_p, log_q = x, x.new_zeros(()), x.new_zeros(())
        for layer in range(3):
            logits = self.up[layer](value)
            if layer == 0:
                logits = logits.expand(self.k, *logits.shape)
            z = torch.bernoulli(logits.detach().sigmoid())
            log_q = log_q + log_bernoulli(logits, z)
            log_p = log_p + log_bernoulli(self.down[layer](z), value)
            value = z
        log_w = log_p + log_bernoulli(self.prior.expand_as(value), value) - log_q
        bound = log_w.logsumexp(0) - math.log(self.k)
        numbers = log_w.detach()
        others = (numbers.sum(0) - numbers) / (self.k - 1)
        own = torch.eye(self.k, dtype=torch.bool, device=x.device)[:, :, None]
        replaced = torch.where(own, others, numbers)
        baseline = replaced.logsumexp(1) - math.log(self.k)
        signal = bound.detach() - baseline
        return -(bound + (signal * log_q).sum(0) - (signal * log_q).sum(0).detach()).mean()
