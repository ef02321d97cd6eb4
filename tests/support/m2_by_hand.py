"""M2's bounds written out: layer by layer, class by class, with nothing of the library but weights.

The random numbers are those that the library's programs draw after the same seed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.models import M2


def noise(model: M2, n: int, k: int, labelled: bool) -> Tensor:
    """The noise of z for n data: (C, K, n, z_dim), with C = 1 for labelled data."""
    classes = () if labelled else (model.n_classes,)
    eps = torch.randn(*classes, k, n, model.encoder.loc.out_features, dtype=torch.double)
    return eps.reshape(-1, *eps.shape[-3:])


def trunk(layers: nn.ModuleList, *inputs: Tensor) -> Tensor:
    h = torch.cat(inputs, -1)
    for layer in layers:
        h = F.softplus(F.linear(h, layer.weight, layer.bias))
    return h


def log_q_y(model: M2, x: Tensor) -> Tensor:
    """log q(y | x), shape (n, C)."""
    net = model.classifier
    return F.log_softmax(net.logits(trunk(net.trunk.layers, x)), -1)


def minus_l(model: M2, x: Tensor, y: Tensor, eps: Tensor) -> Tensor:
    """-L(x, y) of equation 6 at one draw, shape (n,), for y of shape (n,)."""
    one_hot = torch.eye(model.n_classes, dtype=x.dtype)[y]
    h = trunk(model.encoder.trunk.layers, x, one_hot)
    loc, scale = model.encoder.loc(h), (0.5 * model.encoder.log_var(h)).exp()
    z = loc + scale * eps
    log_q = (-0.5 * eps**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_p_z = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    p = torch.sigmoid(model.decoder.logits(trunk(model.decoder.trunk.layers, z, one_hot)))
    log_p_x = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    return log_p_x + log_p_z - math.log(model.n_classes) - log_q


def minus_u(model: M2, x: Tensor, eps: Tensor) -> Tensor:
    """-U(x) of equation 7, shape (n,), averaged over the particles of `eps`, (C, K, n, z_dim)."""
    log_q, total = log_q_y(model, x), torch.zeros(len(x), dtype=x.dtype)
    for c in range(model.n_classes):
        y = torch.full((len(x),), c)
        for draw in eps[c]:
            q = log_q[:, c].exp()
            total = total + q * (minus_l(model, x, y, draw) - log_q[:, c]) / len(eps[c])
    return total
