"""The thermodynamic variational objective against its definition, by sums over all draws."""

from itertools import pairwise
from typing import Any

import bounds
import every_draw
import linear_gaussian as exact
import numpy as np
import pyro
import pytest
import torch
from every_draw import Given, sbn, values_of
from pyro import poutine
from renyi_support import wide
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO
from ppl_vae.inference import IWAE, TVO
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.log_weights import log_weights
from ppl_vae.models import SBN, Model

POINTS = (0.0, 0.2, 0.7, 1.0)
LOG_SPACED = {1: (0.0, 1.0), 2: (0.0, 10**-1.09, 1.0), 3: (0.0, 10**-1.09, 10**-0.545, 1.0)}
both_bounds = pytest.mark.parametrize("bound", ["lower", "upper"])


def defined(log_prob: Tensor, log_w: Tensor, points: Any, bound: str) -> Tensor:
    """The bound itself, of each datum: log probabilities and log weights are of all draws."""
    total: Any = 0.0
    for left, right in pairwise(points):
        beta = left if bound == "lower" else right
        pi = (log_prob + beta * log_w).softmax(0)
        total = total + (right - left) * (pi * log_w).sum(0)
    return total


def found(model: Model, objective: Any, x: Tensor, parameters: Any = None) -> list[Tensor]:
    loss = lambda: objective.differentiable_loss(model.model, model.guide, x)  # noqa: E731
    return gradients(loss, model.parameters() if parameters is None else parameters)


def trained(model: SBN, bound: str) -> list[Tensor]:
    """The parameters of which the bound has a gradient: its guide's, or all."""
    every = dict(model.named_parameters())
    return [p for name, p in every.items() if bound == "lower" or name.startswith("encoders")]


@both_bounds
@pytest.mark.parametrize("partitions", [1, 2, 3, POINTS])
def test_all_states_as_particles_give_the_bound_and_its_gradient(
    partitions: Any, bound: Any
) -> None:
    """With a uniform q and each state drawn equally often, all is exact but the factor K/(K - 1).

    The gradient is linear in it, so that of 8 and of 16 particles tell that of the factor 1.
    """
    model, x = sbn()
    for name, parameter in model.named_parameters():
        if name.startswith("encoders"):
            parameter.detach().zero_()
    parameters = trained(model, bound)

    def ours(k: int) -> list[Tensor]:
        numbers = (torch.arange(k) % 8)[:, None].expand(k, len(x))
        with Given(values_of(numbers)):
            return found(model, TVO(k, partitions, bound), x, parameters)

    def loss() -> Tensor:
        points = LOG_SPACED.get(partitions, partitions)
        total = defined(*every_draw.of_states(model, x), points, bound).sum()
        return total if bound == "upper" else -total

    few, many = ours(8), ours(16)
    torch.testing.assert_close(few[0], many[0])
    slope = (1 - 8 / 7) / (16 / 15 - 8 / 7)
    exactly = [a + slope * (b - a) for a, b in zip(few, many, strict=True)]
    assert_same(exactly, gradients(loss, parameters))


@both_bounds
@pytest.mark.parametrize("partitions", [2, POINTS])
def test_value_and_gradients_as_particles_grow(partitions: Any, bound: Any) -> None:
    model, x = wide()
    parameters = list((model.encoder if bound == "upper" else model).parameters())
    sign = 1 if bound == "upper" else -1
    points = LOG_SPACED.get(partitions, partitions)
    loss = lambda: sign * defined(*bounds.of_vae(model, x), points, bound).sum()  # noqa: E731
    expected = gradients(loss, parameters)
    ours = found(model, TVO(300_000, partitions, bound), x, parameters)
    torch.testing.assert_close(ours[0], expected[0], rtol=0.005, atol=0.0)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.03, atol=0.03)
    assert sum(grad.abs().sum() for grad in expected[1:]) > 1


@pytest.mark.parametrize("k", [2, 3])
def test_with_one_partition_it_is_the_elbo_without_bias(k: int) -> None:
    model, x = sbn()
    ours = gradients(lambda: every_draw.loss(TVO(k, 1), model, x), model.parameters())
    loss = lambda: -every_draw.expected(lambda w: w.mean(-2), model, x, k)  # noqa: E731
    assert_same(ours, gradients(loss, model.parameters()))
    vae, x = exact.vae(), exact.data()
    assert_same(found(vae, TVO(5, 1), x)[:1], found(vae, ELBO(5), x)[:1])


def test_with_one_partition_the_upper_bound_is_the_wake_phase() -> None:
    model, x = sbn()

    def wake() -> Tensor:
        draws = draw(model.model, model.guide, x, k=6)
        log_w = log_weights(draws).detach()
        log_q = sum(site.log_prob for site in draws.guide.values())
        score = -(log_w.softmax(0) * log_q).sum()
        return (log_w.softmax(0) * log_w).sum() + score - score.detach()

    ours, theirs = found(model, TVO(6, 1, "upper"), x), gradients(wake, model.parameters())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert sum(grad.abs().sum() > 0 for grad in theirs) > 3


def test_bounds_are_in_order_in_every_draw() -> None:
    """Between the ELBO and the importance weighted bound, above which the upper ones are."""
    model, x = exact.vae(), exact.data()

    def value(objective: Any, sign: int = -1) -> float:
        pyro.set_rng_seed(0)
        return sign * float(objective.loss(model.model, model.guide, x))

    numbers, fine = (2, 3, 5), np.linspace(0, 1, 4001).tolist()
    lower = [value(TVO(7, n)) for n in (*numbers, fine)]
    upper = [value(TVO(7, n, "upper"), 1) for n in (fine, *numbers[::-1], 1)]
    levels = [value(ELBO(7)), *lower, value(IWAE(7)), *upper]
    assert levels == sorted(levels)
    assert min(np.diff(levels)) > 1e-6
    assert upper[0] - lower[-1] < 0.02 * (levels[-1] - levels[0])


def test_they_are_on_both_sides_of_the_evidence() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    copies = x.repeat(10, 1)
    log_p = exact.log_evidence(model, x).sum().item()
    elbo = exact.bound(model, x).sum().item()
    lower = [-TVO(2000, n).loss(model.model, model.guide, copies) / 10 for n in (2, 5)]
    upper = [TVO(2000, n, "upper").loss(model.model, model.guide, copies) / 10 for n in (5, 2)]
    levels = [elbo, *lower, log_p, *upper]
    assert levels == sorted(levels)
    assert min(np.diff(levels)) > 0.02


@both_bounds
def test_it_is_the_evidence_in_every_draw_at_the_posterior(bound: Any) -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    loss = TVO(3, 4, bound).loss(model.model, model.guide, x)
    sign = 1 if bound == "upper" else -1
    assert loss == pytest.approx(sign * exact.log_evidence(model, x).sum().item(), abs=1e-9)


@both_bounds
def test_no_gradient_passes_through_the_draws(bound: Any) -> None:
    model, x = exact.vae(), exact.data()
    parameters = model.encoder.parameters
    ours = found(model, TVO(4, 3, bound), x, parameters())
    model.encoder.__class__ = exact.UnreparametrisedNet
    assert_same(ours, found(model, TVO(4, 3, bound), x, parameters()))


@both_bounds
def test_scales_and_masks(bound: Any) -> None:
    model, x = sbn()
    numbers = torch.tensor([[3, 7], [1, 0], [6, 2]])

    def of(x: Tensor, numbers: Tensor, context: Any) -> list[Tensor]:
        programs = [context(program) for program in (model.model, model.guide)]
        with Given(values_of(numbers)):
            loss = TVO(3, 2, bound).differentiable_loss(*programs, x)
        return [loss.detach(), *torch.autograd.grad(loss, trained(model, bound))]

    first = of(x[:1], numbers[:, :1], lambda program: program)
    mask = torch.tensor([True, False])
    masked = of(x, numbers, lambda program: poutine.mask(program, mask=mask))
    assert_same(masked, first)
    scaled = of(x[:1], numbers[:, :1], lambda program: poutine.scale(program, scale=2.5))
    assert_same(scaled, [2.5 * part for part in first])


def test_wrong_arguments_are_named() -> None:
    says = r"partitions should be a number of intervals or points .* from 0 to 1, was "
    for partitions in ((0.0, 0.5), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (), (0.0,), 1.5, "01", None):
        with pytest.raises(ValueError, match=says):
            TVO(2, partitions)  # type: ignore[arg-type]
    for arguments, says in (
        ({"k": 1}, "k should be a whole number of at least 2, was 1"),
        ({"k": 2, "partitions": 0}, "partitions should be a whole number of at least 1, was 0"),
        ({"k": 2, "bound": "both"}, "bound should be lower or upper, was 'both'"),
    ):
        with pytest.raises(ValueError, match=says):
            TVO(**arguments)  # type: ignore[arg-type]
    marked = Toy(3, marked=True)
    with pytest.raises(ValueError, match="'y' should not be enumerated by the guide"):
        TVO(2).loss(marked.model, marked.guide, torch.randn(3))
