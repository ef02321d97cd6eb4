"""The table of objectives, and a pair of plain functions of `pyro.param` for all of them."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae import ELBO, SemiSupervised
from ppl_vae.inference import (
    CIWAE,
    CUBO,
    GECO,
    IWAE,
    MIWAE,
    STL,
    TVO,
    VIMCO,
    DReG,
    Hybrid,
    Objective,
    Renyi,
)
from ppl_vae.inference.objectives.piwae import PIWAE
from ppl_vae.inference.objectives.relaxed import Relaxed
from ppl_vae.inference.objectives.wake_sleep import RWS, WakeSleep

Kind = Literal["number", "class", "label"]
OF_MODEL, OF_GUIDE = ("prior", "a", "m"), ("w", "u", "g", "h", "t")
START = {"prior": 0.3, "a": 1.2, "m": -0.7, "w": 0.5, "u": -0.4, "g": 0.6, "h": 0.3, "t": -0.2}
N, UNITS = 6, 3


class Line(nn.Module):
    """A baseline C(x) = v x + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.tensor(0.7, dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        return self.v * x.reshape(len(x), -1).sum(-1) + 1


@dataclass(frozen=True)
class Loss:
    """An objective, and what it is for.

    Attributes:
        make: Makes the objective.
        particles: Number of draws of each datum.
        kinds: What y, one of the two latents of the pair, may be.
        refuses: What is said of the kind that it may not be.
        trains: The parameters that it has a gradient for.
        batch: How a minibatch can be made: by the plate, by a loader, or not at all.
        simulates: Whether it asks for data that a site observes as they are.
        labels: Whether the data have labels of y.
        shared: Whether a latent may belong to all data.
        empty: Whether the pair may have no latents.
    """

    make: functools.partial[Objective]
    particles: int = 1
    kinds: tuple[Kind, ...] = ("number", "class")
    refuses: str = ""
    trains: tuple[str, ...] = OF_MODEL + OF_GUIDE
    batch: Literal["drawn", "given", "whole"] = "drawn"
    simulates: bool = False
    labels: bool = False
    shared: bool = False
    empty: bool = False


NUMBERS: dict[str, Any] = {"kinds": ("number",), "refuses": "'y' should be reparametrised"}
CLASSES: dict[str, Any] = {"kinds": ("class",)}
BASELINE = {**CLASSES, "refuses": "baseline should be None", "shared": True, "batch": "given"}


of = functools.partial


LOSSES: dict[str, Loss] = {
    "ELBO": Loss(of(ELBO, 2), 2, shared=True, empty=True),
    "ELBO-closed-kl": Loss(of(ELBO, 2, analytic_kl=True), 2, shared=True, empty=True),
    "ELBO-average": Loss(of(ELBO, 2, baseline="average"), 2, **BASELINE),
    "ELBO-network": Loss(of(ELBO, baseline=Line()), **BASELINE),
    "ELBO-beta": Loss(of(ELBO, beta=0.4), shared=True),
    "ELBO-free-bits": Loss(
        of(ELBO, 2, free_bits=0.2),
        2,
        kinds=("number",),
        refuses="free_bits should be 0 for latents that are not reparametrised",
        batch="whole",
        shared=True,
    ),
    "IWAE": Loss(of(IWAE, 3), 3),
    "MIWAE": Loss(of(MIWAE, 2, 3), 6),
    "CIWAE": Loss(of(CIWAE, 0.3, 3), 3),
    "PIWAE": Loss(of(PIWAE, 2, 3), 6),
    "Renyi": Loss(of(Renyi, 0.5, 3), 3),
    "Renyi-max": Loss(of(Renyi, float("-inf"), 3), 3),
    "CUBO": Loss(of(CUBO, 2.0, 3), 3, trains=OF_GUIDE),
    "STL": Loss(of(STL, 3), 3, **NUMBERS),
    "DReG": Loss(of(DReG, 3), 3, **NUMBERS),
    "VIMCO": Loss(of(VIMCO, 3), 3),
    "VIMCO-arithmetic": Loss(of(VIMCO, 3, "arithmetic"), 3),
    "TVO": Loss(of(TVO, 3), 3),
    "TVO-upper": Loss(of(TVO, 3, 2, "upper"), 3, trains=OF_GUIDE),
    "RWS": Loss(of(RWS, 3), 3),
    "RWS-asleep": Loss(of(RWS, 3, True, True), 3, simulates=True, batch="given"),
    "WakeSleep": Loss(of(WakeSleep), simulates=True, batch="given"),
    "Relaxed": Loss(
        of(Relaxed, 0.6, k=2), 2, **CLASSES, refuses="guide should draw a discrete", shared=True
    ),
    "Relaxed-hard": Loss(
        of(Relaxed, 0.6, True), **CLASSES, refuses="guide should draw a discrete", shared=True
    ),
    "GECO": Loss(of(GECO, 1.0, k=2), 2, **NUMBERS, batch="whole"),
    "Hybrid": Loss(of(Hybrid, 0.5, k=2), 2, shared=True, empty=True),
    "SemiSupervised": Loss(
        of(SemiSupervised, 0.7, k=2), 2, kinds=("label",), labels=True, batch="given"
    ),
}
FOR_FIT_ALONE = {"Lagging"}
"""Objectives around another one that SVI cannot step; they have tests of their own."""
every_loss = pytest.mark.parametrize("name", LOSSES)


class Pair:
    """p: y ~ N(prior, 1) or Bernoulli, z ~ N(y, 1), x ~ N(a z + m y, 1);  q: y, then z.

    Args:
        kind: What y is.
        batch: "whole" data, a batch "given" by a loader, or one "drawn" by the plate.
        units: None for one number x in each datum, or numbers in an inner "plate" or an "event".
    """

    def __init__(self, kind: str, batch: str = "whole", units: str | None = None) -> None:
        self.kind, self.batch, self.units = kind, batch, units
        self.drawn: list[tuple[int, ...]] = []

    def model(self, x: Tensor) -> None:
        prior, a, m = (parameter(name) for name in OF_MODEL)
        with self.data(x) as index:
            x = self.seen(x, index)
            y = self.beside(pyro.sample("y", self.latent(prior)))
            with self.inner():
                z = pyro.sample("z", self.normal(y, 1.0))
                pyro.sample("x", self.normal(a * z + m * y, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        w, u, g, h, t = (parameter(name) for name in OF_GUIDE)
        with self.data(x) as index:
            x = self.seen(x, index)
            mean = {None: x, "plate": x.mean(0), "event": x.mean(-1)}[self.units]
            y = self.beside(pyro.sample("y", self.latent(w * mean + u)))
            with self.inner():
                z = pyro.sample("z", self.normal(h * x + g * y, t.exp()))
        self.drawn.append(tuple(z.shape))

    def data(self, x: Tensor) -> Any:
        n = x.shape[-1] if self.transposed(x) else len(x)
        sizes = {
            "whole": {"size": n},
            "given": {"size": 2 * n, "subsample_size": n, "subsample": torch.arange(n)},
            "drawn": {"size": n, "subsample_size": n // 2},
        }
        return pyro.plate("data", **sizes[self.batch], dim=-1)

    def transposed(self, x: Tensor) -> bool:
        return self.units == "plate" and len(x) == UNITS

    def seen(self, x: Tensor, index: Tensor) -> Tensor:
        """The data as the site has them."""
        if self.units == "plate" and not self.transposed(x):
            return x.T
        return x[index] if self.batch == "drawn" else x

    def inner(self) -> Any:
        if self.units == "plate":
            return pyro.plate("units", UNITS, dim=-2)
        return contextlib.nullcontext()

    def latent(self, loc: Tensor) -> Any:
        if self.kind == "label":
            return dist.Categorical(logits=torch.stack([torch.zeros_like(loc), loc], -1))
        return dist.Bernoulli(logits=loc) if self.kind == "class" else dist.Normal(loc, 1.0)

    def beside(self, y: Tensor) -> Tensor:
        return y[..., None] if self.units == "event" else y

    def normal(self, loc: Tensor, scale: Any) -> Any:
        if self.units == "event":
            return dist.Normal(loc, scale * torch.ones(UNITS, dtype=torch.double)).to_event(1)
        return dist.Normal(loc, scale)


def parameter(name: str) -> Tensor:
    value: Tensor = pyro.param(name, lambda: torch.tensor(START[name], dtype=torch.double))
    return value


class Fixed(Messenger):
    """Draws are made of numbers that a datum, a particle and a unit have for each site.

    So they are the same however the data are cut and the units laid out.
    """

    def __init__(self, units: str | None = None) -> None:
        super().__init__()
        self.units = units

    def _pyro_sample(self, msg: Any) -> None:
        fn: Any = msg["fn"]
        if msg["is_observed"] or msg["value"] is not None or not hasattr(fn, "event_shape"):
            return
        noise = self.numbers(msg["name"], fn.shape())
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if hasattr(base, "from_noise"):
            msg["value"] = base.from_noise(noise)
        elif fn.support.is_discrete:
            msg["value"] = (noise > 0).double()
        else:
            msg["value"] = fn.mean + fn.variance.sqrt() * noise

    def numbers(self, name: str, shape: Any) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        table = torch.randn(8, N, UNITS, dtype=torch.double, generator=generator)
        if name == "y" or self.units is None:
            particles = shape[0] if len(shape) > 1 else 1
            return table[:particles, : shape[-1], 0].reshape(shape)
        table = table[: shape[0] if len(shape) > 2 else 1]
        return (table if self.units == "event" else table.transpose(-2, -1)).reshape(shape)


def data(loss: Loss, units: str | None = None) -> tuple[Tensor, ...]:
    """The arguments of the loss."""
    generator = torch.Generator().manual_seed(0)
    shape = (N,) if units is None else (N, UNITS)
    x = 2 * torch.randn(shape, dtype=torch.double, generator=generator) + 1
    x = x.T if units == "plate" and loss.simulates else x
    return (x, torch.full((N,), -1)) if loss.labels else (x,)


def found(
    loss: Loss, pair: Pair, x: tuple[Tensor, ...], around: Any = lambda p: p, nesting: int = 1
) -> list[Tensor]:
    """The loss of fixed draws, and its gradient by every parameter."""
    programs = [around(program) for program in (pair.model, pair.guide)]
    with Fixed(pair.units):
        value = loss.make(max_plate_nesting=nesting).differentiable_loss(*programs, *x)
    named = dict(pyro.get_param_store().named_parameters())
    every = [named[name] for name in START]
    grads = torch.autograd.grad(value, every, allow_unused=True)
    trained = [name for name, grad in zip(START, grads, strict=True) if grad is not None]
    assert set(loss.trains) <= set(trained)
    return [value.detach(), *(g for g, n in zip(grads, START, strict=True) if n in loss.trains)]


def assert_runs_as_a_module(loss: Loss) -> None:
    """It has one value as a loss, a number, a step and a module, and one gradient."""
    pair, x = Pair(loss.kinds[0], loss.batch), data(loss)
    objective = loss.make()
    pyro.set_rng_seed(1)
    value = objective.differentiable_loss(pair.model, pair.guide, *x)
    named = dict(pyro.get_param_store().named_parameters())
    every = [named[name] for name in loss.trains]
    grads = torch.autograd.grad(value, every)
    pyro.set_rng_seed(1)
    assert objective.loss(pair.model, pair.guide, *x) == value.item()
    module = objective(pair.model, pair.guide)
    pyro.set_rng_seed(1)
    assert module(*x).equal(value.detach())
    pyro.set_rng_seed(1)
    assert loss.make().loss_and_grads(pair.model, pair.guide, *x) == value.item()
    for parameter, grad in zip(every, grads, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.equal(grad)
        assert grad.any()
