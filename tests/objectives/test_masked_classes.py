"""Masked data beside a class that the model sums over: every draw's gradients, by hand."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from masked_classes_support import KINDS, OBJECTIVES, SEEN, X, by_hand, noise, parameters
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.inference import RWS, STL, DReG
from ppl_vae.inference.objectives.piwae import PIWAE

OF_MODEL = ("pi", "m", "b", "a")


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
