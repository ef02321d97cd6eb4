"""The base class of models of x given a condition c."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from ppl_vae.models.base import Model
from ppl_vae.shared.checks import check_condition, check_whole
from ppl_vae.shared.model_checks import ConditionChecks


class ConditionalModel(ConditionChecks, Model):
    """Base class of models p(x | c) of a target x given a condition c.

    The data are (c, x) or (c, x, mask). A condition is a vector or an integer class; the boolean
    `mask`, of the shape of x, is True for the entries of x that are observed. A subclass sets
    `x_dim` and `c_dim`, and a `decoder` whose support x must lie in (or it overrides `check`).
    """

    def vectors(self, c: Tensor) -> Tensor:
        """Return c as vectors, shape (n, c_dim): classes one-hot, in the model's floating type."""
        if c.is_floating_point():
            return c
        return F.one_hot(c, self.c_dim).to(next(self.parameters()).dtype)

    def observe(self, p: dist.Independent, x: Tensor, mask: Tensor | None) -> None:
        """Observe x at site "x" with distribution p; log p sums over the entries in the mask."""
        if mask is not None:
            p = p.base_dist.mask(mask.bool()).to_event(1)
        pyro.sample("x", p, obs=x)

    def zero_outside_mask(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x with its unobserved entries set to zero, as input of the guide."""
        return x if mask is None else torch.where(mask.bool(), x, torch.zeros_like(x))

    def blank(self, n: int) -> tuple[Tensor, ...]:
        c, x = (torch.zeros(n, dim, device=self.device) for dim in (self.c_dim, self.x_dim))
        return c, x

    @torch.no_grad()
    def sample(self, n: int, c: Any = None) -> dict[str, Tensor]:
        """Return n draws of every site of the model, one for each condition: site -> (n, ...).

        Args:
            n: Number of draws.
            c: n conditions (repeat a condition for several draws), by default vectors of zeros.
        """
        check_whole("n", n, 1)
        if c is None:
            return super().sample(n)
        check_condition("c", c, self.c_dim)
        if len(c) != n:
            raise ValueError(f"c should be {n} conditions, one for each draw, had {len(c)}")
        return self.simulate(*self.as_tensors(c), self.blank(n)[1])
