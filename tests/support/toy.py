"""A pair with one discrete and one real latent, whose bound is known in closed form."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


class Toy:
    """A pair with a class y and a number z, and its bound as a sum of Gaussian integrals.

    p: y ~ pi, z ~ N(0, 1), x ~ N(a z + m_y, 1);  q: y ~ softmax(w x + u), z ~ N(g_y + h x, s_y^2).
    """

    def __init__(self, n_classes: int, marked: bool, normal: Any = dist.Normal) -> None:
        def parameter(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.double).requires_grad_()

        self.infer = {"enumerate": "parallel"} if marked else {}
        self.normal = normal
        self.subsample_size: int | None = None
        self.around_label: Callable[[], Any] = contextlib.nullcontext
        self.pi, self.m, self.w, self.u, self.g, self.s = (parameter(n_classes) for _ in range(6))
        self.a, self.h = parameter(), parameter()
        self.parameters = [self.pi, self.m, self.w, self.u, self.g, self.s, self.a, self.h]

    def label(self, logits: Tensor) -> Any:
        if logits.shape[-1] == 2:
            return dist.Bernoulli(logits=logits[..., 1] - logits[..., 0])
        return dist.Categorical(logits=logits)

    def data(self, x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=self.subsample_size)

    def model(self, x: Tensor) -> None:
        with self.data(x) as index:
            with self.around_label():
                y = pyro.sample("y", self.label(self.pi), infer=self.infer).long()
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.a), 1.0))
            pyro.sample("x", dist.Normal(self.a * z + self.m[y], 1.0), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with self.data(x) as index:
            x = x[index]
            y = pyro.sample("y", self.label(self.w * x[:, None] + self.u), infer=self.infer).long()
            pyro.sample("z", self.normal(self.g[y] + self.h * x, self.s[y].exp()))

    def guide_of_z(self, x: Tensor) -> None:
        with self.data(x) as index:
            pyro.sample("z", dist.Normal(self.g[0] + self.h * x[index], self.s[0].exp()))

    def bound(self, x: Tensor) -> Tensor:
        x = x[:, None]
        log_q, loc, scale = (self.w * x + self.u).log_softmax(-1), self.g + self.h * x, self.s.exp()
        kl = 0.5 * (loc**2 + scale**2 - 1) - self.s
        square = (x - self.a * loc - self.m) ** 2 + self.a**2 * scale**2
        log_p_x = -0.5 * math.log(2 * math.pi) - 0.5 * square
        return (log_q.exp() * (self.pi.log_softmax(-1) - log_q - kl + log_p_x)).sum(-1)

    def loss(self, objective: Any, x: Tensor, guide: Any = None) -> Callable[[], Tensor]:
        return lambda: objective.differentiable_loss(self.model, guide or self.guide, x)
