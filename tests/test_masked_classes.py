"""Masked data beside a class that the model sums over: every draw's gradients, by hand."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.inference import RWS, STL, DReG
from ppl_vae.inference.piwae import PIWAE

OBJECTIVES = {"STL": (2,), "DReG": (4,), "PIWAE": (2, 2), "RWS": (4,)}
SHAPES = {"pi": 3, "m": 3, "b": 3, "a": (), "g": (), "h": (), "s": (), "c": ()}
OF_MODEL = ("pi", "m", "b", "a")
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


class Given(Messenger):
    """Draws are mean + stddev * noise."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in ("z", "x_unobserved") and msg["value"] is None:
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * noise(msg["name"], self.k)


def programs(w: dict[str, Tensor], kind: str) -> tuple[Callable[[Tensor], None], ...]:
    """A mixture of three; what hides the second datum: all of it, or of x alone, or that of x."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = w["pi"]
            y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(w["m"][y], 1.0))
            of_x = dist.Normal(w["a"] * z + w["b"][y], 1.0)
            if kind == "obs_mask":
                pyro.sample("x", of_x, obs=x, obs_mask=SEEN)
            else:
                with poutine.mask(mask=SEEN) if kind == "x" else nullcontext():
                    pyro.sample("x", of_x, obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(w["g"] + w["h"] * x, w["s"].exp()))
            if kind == "obs_mask":
                with poutine.mask(mask=~SEEN):
                    pyro.sample("x_unobserved", dist.Normal(w["c"] * x.new_ones(len(x)), 1.0))

    if kind == "both":
        return poutine.mask(model, mask=SEEN), poutine.mask(guide, mask=SEEN)
    return model, guide


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_by_hand(name: str, kind: str) -> None:
    objective: Any = {"STL": STL, "DReG": DReG, "PIWAE": PIWAE, "RWS": RWS}[name](*OBJECTIVES[name])
    w = parameters()
    with Given(objective.num_particles):
        loss = objective.differentiable_loss(*programs(w, kind), X)
    value, expected = by_hand(name, OBJECTIVES[name], kind)
    torch.testing.assert_close(loss, value, rtol=1e-10, atol=1e-10)
    names, values = zip(*w.items(), strict=True)
    grads = torch.autograd.grad(loss, values, materialize_grads=True)
    for parameter, grad in zip(names, grads, strict=True):
        message = f"{parameter}: {grad} {expected[parameter]}"
        torch.testing.assert_close(grad, expected[parameter], rtol=1e-9, atol=1e-9, msg=message)
        assert (grad.abs().sum() > 0) == (parameter != "c" or kind == "obs_mask")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_mask_of_the_model_alone_is_refused(name: str) -> None:
    """The sum over the classes of what is masked counts for nothing, but the guide's draw does."""
    objective: Any = {"STL": STL, "DReG": DReG, "PIWAE": PIWAE, "RWS": RWS}[name](*OBJECTIVES[name])
    model, _ = programs(parameters(), "both")
    _, guide = programs(parameters(), "x")
    with pytest.raises(ValueError, match="all sites should have one mask where one that is summed"):
        objective.differentiable_loss(model, guide, X)
