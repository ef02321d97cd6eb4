"""Every K-tuple of draws of a sigmoid belief network as a datum of its own.

The scale of a datum is the probability of its draws, so a loss and its gradient are those of the
expectation, without chance.
"""

import itertools
from typing import Any

import torch
from bounds import Bound
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.log_weights import log_guide, log_weights
from ppl_vae.models import SBN

X_DIM, Z_DIMS = 3, (2, 1)


class Given(Messenger):
    """Gives latent sites their values."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["value"] is None:
            msg["value"] = self.values.get(msg["name"])


def sbn() -> tuple[SBN, Tensor]:
    """A network of 8 states, with weights that are not small, and data."""
    model = SBN(X_DIM, Z_DIMS).double()
    for parameter in model.parameters():
        parameter.detach().normal_(0, 0.7)
    return model, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.double)


def values_of(numbers: Tensor) -> dict[str, Tensor]:
    """The value of each site in the states of these numbers, (...) -> (..., z_dim)."""
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(Z_DIMS)))).double()
    parts = bits[numbers].split(Z_DIMS, -1)
    return {f"z_{i}": part for i, part in enumerate(parts, start=1)}


def of_states(model: SBN, x: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z | x) and log w of all states, (states, N) each."""
    count = 2 ** sum(Z_DIMS)
    numbers = torch.arange(count)[:, None].expand(-1, len(x))
    with Given(values_of(numbers)):
        draws = draw(model.model, model.guide, x, k=count)
    return log_guide(draws), log_weights(draws)


def tuples(k: int) -> Tensor:
    """The numbers of the states in each K-tuple, (tuples, K)."""
    return torch.tensor(list(itertools.product(range(2 ** sum(Z_DIMS)), repeat=k)))


def expected(bound: Bound, model: SBN, x: Tensor, k: int) -> Tensor:
    """E bound(log w_1, ..., log w_K), summed over the data."""
    log_q, log_w = of_states(model, x)
    each = tuples(k)
    return (log_q[each].sum(1).exp() * bound(log_w[each])).sum()


def loss(objective: Any, model: SBN, x: Tensor, scale: Tensor | None = None) -> Tensor:
    """The expectation of the loss, and of its gradient; or with other scales, (N, tuples)."""
    each = tuples(objective.num_particles)
    if scale is None:
        log_q = of_states(model, x)[0].detach()
        scale = log_q[each].sum(1).exp().T
    copies = x.repeat_interleave(len(each), 0)
    values = values_of(each.T.repeat(1, len(x)))
    programs = [poutine.scale(p, scale=scale.reshape(-1)) for p in (model.model, model.guide)]
    with Given(values):
        result: Tensor = objective.differentiable_loss(*programs, copies)
    return result


def variances(objective: Any, model: SBN, x: Tensor) -> dict[str, Tensor]:
    """The variance of the gradient, summed over the entries of each parameter, for one datum."""
    log_q = of_states(model, x)[0].detach()
    prob = log_q[tuples(objective.num_particles)].sum(1).exp().T
    scale = torch.ones_like(prob, requires_grad=True)
    named = dict(model.named_parameters())
    # The loss is linear in the scales: these derivatives are the gradients of each tuple.
    grads = torch.autograd.grad(
        loss(objective, model, x, scale), list(named.values()), create_graph=True
    )
    found = {}
    for name, grad in zip(named, grads, strict=True):
        of_tuples = torch.stack(
            [torch.autograd.grad(g, scale, retain_graph=True)[0] for g in grad.reshape(-1)]
        )
        mean = (prob * of_tuples).sum((1, 2), keepdim=True)
        found[name] = (prob * (of_tuples - mean) ** 2).sum()
    return found
