"""What models of x given a condition c share: their data, and draws for given conditions."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_vae.models.base import Model
from ppl_vae.shared.checks import (
    check_arguments,
    check_condition,
    check_mask,
    check_matrix,
    check_whole,
)


class ConditionalModel(Model):
    """A model of targets x given c, whose data are (c, x) or (c, x, mask).

    A condition c is a vector or an integer class, a `mask` says which entries of x count (True).
    A subclass sets `x_dim` and `c_dim`, and defines `check` by `check_conditioned`.
    """

    c_dim: int

    def vectors(self, c: Tensor) -> Tensor:
        """c as vectors, shape (n, c_dim): classes as one-hot ones, in the model's floating type."""
        if c.is_floating_point():
            return c
        return F.one_hot(c, self.c_dim).to(next(self.parameters()).dtype)

    def observe(self, p: dist.Independent, x: Tensor, mask: Tensor | None) -> None:
        """The site "x" with the distribution p: its log p sums over the entries that count."""
        if mask is not None:
            p = p.base_dist.mask(mask.bool()).to_event(1)
        pyro.sample("x", p, obs=x)

    def counted(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x with zeros in the place of entries that do not count, for the guide to see."""
        return x if mask is None else torch.where(mask.bool(), x, torch.zeros_like(x))

    def check_conditioned(self, network: nn.Module, *data: Any) -> None:
        """Raises a ValueError unless `data` are what `network`, which gives p, is trained on."""
        check_arguments(data, ("c", "x"), ("c", "x", "mask"))
        check_condition("c", data[0], self.c_dim)
        check_matrix("x", data[1], self.x_dim, *self.support(network))
        for mask in data[2:]:
            check_mask("mask", mask, self.x_dim)

    def blank(self, n: int) -> tuple[Tensor, ...]:
        c, x = (torch.zeros(n, dim, device=self.device) for dim in (self.c_dim, self.x_dim))
        return c, x

    @torch.no_grad()
    def sample(self, n: int, c: Any = None) -> dict[str, Tensor]:
        """n draws of every site of the model, one for each condition: site -> (n, ...).

        Args:
            n: Number of draws.
            c: The conditions, n of them (repeat one to draw often); by default vectors of zeros.
        """
        check_whole("n", n, 1)
        if c is None:
            return super().sample(n)
        check_condition("c", c, self.c_dim)
        if len(c) != n:
            raise ValueError(f"c should be {n} conditions, one for each draw, had {len(c)}")
        return self.simulate(*self.as_tensors(c), self.blank(n)[1])
