"""Helpers for `tests/objectives/test_draws.py` and its siblings."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from support import assert_same, gradients
from torch import Tensor

from ppl_vae import ELBO

N = 20


A, B, C = (torch.tensor(v, dtype=torch.double, requires_grad=True) for v in (0.7, 0.4, -0.3))


PARAMETERS = [A, B, C]


BOTH = pytest.mark.parametrize("k", [1, 3])


def data() -> Tensor:
    return torch.randn(N, dtype=torch.double)


def theirs(cls: type = Trace_ELBO, k: int = 1, nesting: int = 1) -> Any:
    return cls(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=nesting)


def agree(model: Any, guide: Any, x: Tensor, pairs: Any = None) -> None:
    """Our objectives and Pyro's give one loss and one gradient, for one particle and for three."""
    for k in (1, 3):
        for ours, other in pairs or [(ELBO(k), theirs(k=k))]:
            losses = [
                lambda o=o: o.differentiable_loss(model, guide, x)  # type: ignore[misc]
                for o in (ours, other)
            ]
            assert_same(*(gradients(loss, PARAMETERS) for loss in losses))


class Numbers:
    """z ~ N(0, 1), x ~ N(a z, 1), with effect handlers around some of it."""

    def __init__(
        self, size: int | None = None, both: Callable[[], Any] = lambda: poutine.scale(scale=1.0)
    ) -> None:
        self.size, self.both = size, both
        self.latent_only = self.likelihood_only = lambda: poutine.scale(scale=1.0)
        self.name = "data"

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as index, self.both():
            with self.latent_only():
                z = pyro.sample("z", dist.Normal(torch.zeros_like(A), 1.0))
            with self.likelihood_only():
                pyro.sample("x", dist.Normal(A * z, 1.0), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as index, self.both():
            pyro.sample("z", dist.Normal(B * x[index], C.exp()))


HALF = torch.arange(N) % 2 == 0


HANDLERS = {
    "plain": lambda: poutine.scale(scale=1.0),
    "scale": lambda: poutine.scale(scale=2.5),
    "scale-per-datum": lambda: poutine.scale(scale=torch.linspace(0.5, 2.0, N)),
    "mask": lambda: poutine.mask(mask=HALF),
}
