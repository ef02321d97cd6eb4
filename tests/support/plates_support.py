"""Helpers for `tests/objectives/test_plates.py` and its siblings."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from draws_support import A, B, C
from torch import Tensor


class Globals:
    """A number that all data share: w ~ N(0, 1), x ~ N(a w + z, 1)."""

    def __init__(self, guide: Callable[[], Any]) -> None:
        self.q = guide

    def model(self, x: Tensor) -> None:
        prior = dist.Normal(torch.zeros_like(A), 1.0)
        w = pyro.sample("w", prior if self.q().support is dist.constraints.real else self.q())
        pyro.sample("seen", dist.Normal(w, 1.0), obs=torch.ones_like(A))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0 * A, 1.0))
            pyro.sample("x", dist.Normal(A * w + z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        w = pyro.sample("w", self.q())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(B * (x - w), C.exp()))
