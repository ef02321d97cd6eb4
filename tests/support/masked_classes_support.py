"""Helpers for `tests/objectives/test_masked_classes.py` and its siblings."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

OBJECTIVES = {"STL": (2,), "DReG": (4,), "PIWAE": (2, 2), "RWS": (4,)}


SHAPES = {"pi": 3, "m": 3, "b": 3, "a": (), "g": (), "h": (), "s": (), "c": ()}


KINDS = ("both", "x", "obs_mask")


X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.double)


SEEN = torch.tensor([True, False, True])


def parameters() -> dict[str, Tensor]:
    pyro.set_rng_seed(0)
    return {n: torch.randn(s, dtype=torch.double).requires_grad_() for n, s in SHAPES.items()}


def noise(name: str, k: int) -> Tensor:
    """Standard normal numbers of a site, (k, n)."""
    numbers = torch.sin(1.0 + torch.arange(k * len(X), dtype=torch.double))
    return numbers.reshape(k, len(X)) * (1.3 if name == "z" else -0.7)


def by_hand(name: str, arguments: tuple[int, ...], kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The value and the gradient, from densities with the class summed over."""
    w = parameters()
    fixed = {n: value.detach() for n, value in w.items()}
    k = arguments[0] * (arguments[1] if name == "PIWAE" else 1)
    path = {
        "z": w["g"] + w["h"] * X + w["s"].exp() * noise("z", k),
        "x": torch.where(SEEN, X, w["c"] + noise("x_unobserved", k)),
    }
    held = {n: value.detach() for n, value in path.items()}
    counted = SEEN.double() if kind == "both" else torch.ones_like(X)

    def log_p(v: dict[str, Tensor], w: dict[str, Tensor]) -> Tensor:
        z, x = (v[n][..., None] for n in ("z", "x"))
        seen = x if kind == "obs_mask" else X[:, None]
        of_x = dist.Normal(w["a"] * z + w["b"], 1.0).log_prob(seen)
        if kind == "x":
            of_x = of_x * SEEN[:, None]
        classes = w["pi"].log_softmax(0) + dist.Normal(w["m"], 1.0).log_prob(z) + of_x
        return counted * classes.logsumexp(-1)

    def log_q(v: dict[str, Tensor], w: dict[str, Tensor]) -> Tensor:
        of_z = dist.Normal(w["g"] + w["h"] * X, w["s"].exp()).log_prob(v["z"])
        of_x = dist.Normal(w["c"], 1.0).log_prob(v["x"]) * ~SEEN
        return counted * (of_z + of_x if kind == "obs_mask" else of_z)

    along = log_p(path, fixed) - log_q(path, fixed)
    p, q = log_p(held, w), log_q(held, w)
    log_w = (p - q).detach()
    v, mean = log_w.softmax(0), torch.full_like(log_w, 1 / k)
    if name == "PIWAE":
        u = (log_w.reshape(*arguments, -1).softmax(1) / arguments[0]).reshape(log_w.shape)
        surrogate = v * p + u * (along - q)
    else:
        surrogate = {"STL": mean * (p + along), "DReG": v * p + v**2 * along, "RWS": v * (p + q)}[
            name
        ]
    bound = log_w.mean(0) if name == "STL" else log_w.logsumexp(0) - math.log(k)
    names, values = zip(*w.items(), strict=True)
    grads = torch.autograd.grad(-surrogate.sum(), values, materialize_grads=True)
    return -bound.sum(), dict(zip(names, grads, strict=True))
