"""Products of Bernoulli distributions whose log density is computed in one pass."""

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx


class Bernoullis(dist.Independent):
    """Independent Bernoulli distributions: a faster `Bernoulli(logits=logits).to_event(1)`.

    The log density is

        sum_d x_d logits_d - softplus(logits_d)                                             (1)

    with K N D terms for K particles, N data and D pixels. They are stored once, where torch stores
    several copies: moving these takes more time than computing them.

    Args:
        logits: Shape (..., D).
    """

    def __init__(self, logits: Tensor) -> None:
        # Models check that pixels lie in [0, 1]; torch's own check would refuse grey levels.
        super().__init__(dist.Bernoulli(logits=logits, validate_args=False), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        apply: Any = _LogProb.apply
        log_prob: Tensor = apply(*torch.broadcast_tensors(self.base_dist.logits, value))
        return log_prob

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Bernoullis":
        return Bernoullis(self.base_dist.logits.expand(*batch_shape, *self.event_shape))


class _LogProb(torch.autograd.Function):
    """Equation (1), for logits and values of one shape."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(logits, value)
        return F.softplus(logits).addcmul_(logits, value, value=-1).sum(-1).neg_()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, value = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        grad_value = logits * grad if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_value
        probs = torch.sigmoid(logits)
        if torch.is_grad_enabled():  # create_graph=True: this gradient is differentiated too
            return (value - probs) * grad, grad_value
        return probs.sub_(value).mul_(-grad), grad_value
