"""Distributions against torch's own: log density, gradients of both orders, shapes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.models.distributions.bernoulli import Bernoullis

SHAPES = [((4,), (4,)), ((3, 4), (4,)), ((2, 1, 4), (3, 4)), ((4,), (2, 3, 4))]


def pair(logits: Tensor) -> tuple[dist.Independent, dist.Independent]:
    return Bernoullis(logits), dist.Bernoulli(logits=logits, validate_args=False).to_event(1)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("of_logits", "of_value"), SHAPES)
def test_log_density_and_gradients_are_torchs(
    of_logits: tuple[int, ...], of_value: tuple[int, ...], grey: bool
) -> None:
    logits = (5 * torch.randn(of_logits, dtype=torch.double)).requires_grad_()
    value = torch.rand(of_value, dtype=torch.double)
    value = (value if grey else value.round()).requires_grad_()
    log_probs = [fn.log_prob(value) for fn in pair(logits)]
    torch.testing.assert_close(*log_probs)
    weight = torch.randn_like(log_probs[0], requires_grad=True)
    first = [
        torch.autograd.grad((weight * log_p).sum(), (logits, value), create_graph=True)
        for log_p in log_probs
    ]
    torch.testing.assert_close(*first)
    second = [
        torch.autograd.grad(sum((g**2).sum() for g in grads), (logits, value, weight))
        for grads in first
    ]
    torch.testing.assert_close(*second)
    assert all(g.any() for g in second[0])


def test_gradients_without_a_graph_of_their_own() -> None:
    logits = (5 * torch.randn(2, 3, 4)).requires_grad_()
    value, weight = torch.rand(3, 4).round(), torch.randn(2, 3)
    grads = [
        torch.autograd.grad((weight * fn.log_prob(value)).sum(), logits) for fn in pair(logits)
    ]
    torch.testing.assert_close(*grads)
    assert torch.autograd.gradcheck(
        lambda x: Bernoullis(x).log_prob(value.double()), logits.double(), fast_mode=True
    )


def test_extreme_logits() -> None:
    logits = torch.tensor([[-500.0, 500.0], [500.0, -500.0]])
    value = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(Bernoullis(logits).log_prob(value), torch.tensor([0.0, -1000.0]))


def test_as_a_distribution() -> None:
    logits = torch.randn(3, 4)
    ours, theirs = pair(logits)
    wide = ours.expand((2, 3))
    assert isinstance(wide, Bernoullis)
    assert (wide.batch_shape, wide.event_shape) == ((2, 3), (4,))
    assert wide.sample().shape == (2, 3, 4)
    torch.testing.assert_close(ours.mean, theirs.mean)
    other = Bernoullis(torch.randn(3, 4))
    torch.testing.assert_close(
        torch.distributions.kl_divergence(ours, other),
        torch.distributions.kl_divergence(theirs, other),
    )
    value, mask = ours.sample(), torch.tensor([True, False, True])
    for change in (lambda fn: fn.mask(mask), lambda fn: fn.expand((2, 3)).mask(mask)):
        torch.testing.assert_close(change(ours).log_prob(value), change(theirs).log_prob(value))


def test_in_a_program() -> None:
    with poutine.trace() as trace, pyro.plate("particles", 5, dim=-2), pyro.plate("data", 3):
        pyro.sample("z", Bernoullis(torch.zeros(3, 4)))
    trace.trace.compute_log_prob()
    node = trace.trace.nodes["z"]
    assert node["value"].shape == (5, 3, 4)
    torch.testing.assert_close(node["log_prob"], torch.full((5, 3), -4 * 0.6931472))
