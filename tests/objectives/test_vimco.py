"""VIMCO against sums over all draws: its value, its gradient and the variance of that."""

from typing import Any

import bounds
import every_draw
import linear_gaussian as exact
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from every_draw import Given, sbn, tuples, values_of
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

from ppl_vae.inference import IWAE, VIMCO
from ppl_vae.models import SBN

BOTH = ("geometric", "arithmetic")
both_means = pytest.mark.parametrize("mean", BOTH)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("mean", [*BOTH, None])
def test_value_and_gradients_are_those_of_the_expected_bound(k: int, mean: Any) -> None:
    """By enumeration of all draws of K particles; None is the score function without baselines."""
    model, x = sbn()
    objective = VIMCO(k, mean) if mean else IWAE(k)
    ours = gradients(lambda: every_draw.loss(objective, model, x), model.parameters())
    loss = lambda: -every_draw.expected(bounds.log_mean_exp, model, x, k)  # noqa: E731
    assert_same(ours, gradients(loss, model.parameters()))


@both_means
def test_the_variance_is_smaller_than_without_baselines(mean: Any) -> None:
    model, x = sbn()
    for datum in x.split(1):
        ours = every_draw.variances(VIMCO(3, mean), model, datum)
        plain = every_draw.variances(IWAE(3), model, datum)
        for name, variance in plain.items():
            if name.startswith("encoders"):
                assert ours[name] < 0.5 * variance, name
            else:  # no score function
                torch.testing.assert_close(ours[name], variance)


@both_means
@pytest.mark.parametrize("normal", [dist.Normal, NonreparameterizedNormal])
def test_mixed_latents(normal: Any, mean: Any) -> None:
    toy, x = Toy(3, marked=False, normal=normal), torch.randn(2, dtype=torch.double)
    loss = -bounds.expected(bounds.log_mean_exp, *bounds.of_toy(toy, x)).sum()
    bounds.assert_expected(VIMCO(2, mean), toy, x, toy.parameters, loss)


@both_means
def test_with_reparametrised_latents_alone_it_is_iwae(mean: Any) -> None:
    model, x = exact.vae(), exact.data()
    losses = [
        lambda o=o: o.differentiable_loss(model.model, model.guide, x)  # type: ignore[misc]
        for o in (VIMCO(4, mean), IWAE(4))
    ]
    assert_same(*(gradients(loss, model.parameters()) for loss in losses))


def by_hand(log_w: np.ndarray, mean: str) -> np.ndarray:
    """L - L_{-i} as the definition says, with more digits and a wider range."""
    log_w = log_w.astype(np.longdouble)
    w, k = np.exp(log_w), len(log_w)
    found = np.empty_like(log_w)
    for i in range(k):
        others = np.delete(np.arange(k), i)
        in_its_place = np.exp(log_w[others].mean(0)) if mean == "geometric" else w[others].mean(0)
        found[i] = np.log(w.mean(0)) - np.log((w[others].sum(0) + in_its_place) / k)
    return found


@both_means
@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("k", [2, 5])
def test_signals_written_out(k: int, spread: float, mean: Any) -> None:
    log_w = spread * np.random.default_rng(0).normal(size=(k, 6)) - 100
    tensor = torch.tensor(log_w)
    ours = VIMCO(k, mean).signal(bounds_of(tensor), tensor)
    np.testing.assert_allclose(ours.numpy(), by_hand(log_w, mean).astype(float), atol=1e-10)


def bounds_of(log_w: Tensor) -> Tensor:
    return IWAE(len(log_w)).bound(log_w)


def found(model: SBN, x: Tensor, numbers: Tensor, mean: Any, mask: Any = True) -> list[Tensor]:
    """Loss and gradients at the draws that are states of these numbers, (K, N)."""
    programs = [poutine.mask(program, mask=mask) for program in (model.model, model.guide)]
    with Given(values_of(numbers)):
        loss = VIMCO(len(numbers), mean).differentiable_loss(*programs, x)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@both_means
def test_a_datum_has_its_own_signals_and_a_masked_one_none(mean: Any) -> None:
    model, x = sbn()
    numbers = tuples(3)[torch.tensor([77, 401])].T
    first, second = (found(model, x[i : i + 1], numbers[:, i : i + 1], mean) for i in (0, 1))
    together = [a + b for a, b in zip(first, second, strict=True)]
    assert_same(found(model, x, numbers, mean), together)
    assert_same(found(model, x, numbers, mean, torch.tensor([True, False])), first)


def test_wrong_arguments_are_named() -> None:
    for arguments, says in (
        ({"k": 1}, "k should be a whole number of at least 2, was 1"),
        ({"k": 2.0}, "k should be a whole number of at least 2, was 2.0"),
        ({"k": 2, "mean": "harmonic"}, "mean should be geometric or arithmetic, was 'harmonic'"),
        ({"k": 2, "mean": None}, "mean should be geometric or arithmetic, was None"),
    ):
        with pytest.raises(ValueError, match=says):
            VIMCO(**arguments)  # type: ignore[arg-type]
    marked = Toy(3, marked=True)
    with pytest.raises(ValueError, match=r"'y' should not be enumerated by the guide.*use ELBO"):
        VIMCO(2).loss(marked.model, marked.guide, torch.randn(3))
