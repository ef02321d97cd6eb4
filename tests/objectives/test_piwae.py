"""PIWAE: the model's gradient is that of one bound, the guide's that of several."""

import copy
from typing import Any

import bounds
import every_draw
import linear_gaussian as exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from every_draw import Given, sbn, values_of
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import SVI
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO
from ppl_vae.inference import IWAE, MIWAE
from ppl_vae.inference.objectives.piwae import PIWAE
from ppl_vae.models import VAE


def test_gradients_are_those_of_two_expected_bounds() -> None:
    """By enumeration of all draws of four particles."""
    model, x = sbn()
    named = dict(model.named_parameters())
    of_guide = [p for name, p in named.items() if name.startswith("encoders")]
    of_model = [p for name, p in named.items() if not name.startswith("encoders")]
    one, many = (
        lambda k=k: -every_draw.expected(bounds.log_mean_exp, model, x, k)  # type: ignore[misc]
        for k in (2, 4)
    )
    loss = lambda: every_draw.loss(PIWAE(2, 2), model, x)  # noqa: E731
    assert_same(gradients(loss, of_model), gradients(many, of_model))
    assert_same(gradients(loss, of_guide)[1:], gradients(one, of_guide)[1:])
    for parameters in (of_model, of_guide):  # or the two could be confused
        for a, b in zip(gradients(one, parameters), gradients(many, parameters), strict=True):
            assert (a - b).abs().max() > 1e-3


def test_the_same_of_continuous_latents() -> None:
    model, x = bounds.pair()

    def with_frozen(name: str) -> VAE:
        parts = {part: getattr(model, part) for part in ("encoder", "decoder")}
        parts[name] = copy.deepcopy(parts[name]).requires_grad_(False)
        return VAE(2, 1, (), **parts)

    of_model = -bounds.expected(
        bounds.log_mean_exp, *bounds.of_vae(with_frozen("encoder"), x)
    ).sum()
    log_prob, log_w = bounds.of_vae(with_frozen("decoder"), x)
    of_guide = -(log_prob.exp() * log_w).sum()  # the mean of bounds of one particle is the ELBO
    loss = of_model + (of_guide - of_guide.detach())
    bounds.assert_expected(PIWAE(2, 1), model, x, list(model.parameters()), loss)


@pytest.mark.parametrize("normal", [dist.Normal, NonreparameterizedNormal])
def test_in_every_draw_it_is_iwae_for_the_model_and_miwae_for_the_guide(normal: Any) -> None:
    toy, x = Toy(3, marked=False, normal=normal), torch.randn(5, dtype=torch.double)
    of_model, of_guide = [toy.pi, toy.m, toy.a], [toy.w, toy.u, toy.g, toy.s, toy.h]

    def found(objective: Any, parameters: list[Tensor]) -> list[Tensor]:
        return gradients(toy.loss(objective, x), parameters)

    assert_same(found(PIWAE(2, 3), of_model), found(IWAE(6), of_model))
    assert_same(found(PIWAE(2, 3), of_guide)[1:], found(MIWAE(2, 3), of_guide)[1:])
    assert_same(found(PIWAE(1, 4), toy.parameters), found(IWAE(4), toy.parameters))
    assert_same(found(PIWAE(4, 1), of_guide)[1:], found(ELBO(4), of_guide)[1:])


class Shared:
    """A pair of two latent layers, with one number in p and in q, or one for each."""

    def __init__(self, of_model: Tensor, of_guide: Tensor) -> None:
        self.of_model, self.of_guide = of_model, of_guide

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            u = pyro.sample("u", dist.Normal(self.of_model * z, 1.0))
            pyro.sample("x", dist.Normal(self.of_model * u, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(self.of_guide * x, 0.8))
            pyro.sample("z", dist.Normal(self.of_guide * u, 0.9))


def test_what_model_and_guide_share_gets_both_gradients() -> None:
    x = torch.randn(5, dtype=torch.double)
    shared, *apart = (torch.tensor(0.6, dtype=torch.double, requires_grad=True) for _ in range(3))

    def found(objective: Any, pair: Shared, parameters: list[Tensor]) -> list[Tensor]:
        loss = lambda: objective.differentiable_loss(pair.model, pair.guide, x)  # noqa: E731
        return gradients(loss, parameters)

    pair = Shared(*apart)
    expected = [found(IWAE(6), pair, apart[:1])[1], found(MIWAE(2, 3), pair, apart[1:])[1]]
    assert_same(found(PIWAE(2, 3), pair, apart)[1:], expected)
    ours = found(PIWAE(2, 3), Shared(shared, shared), [shared])
    assert_same(ours[1:], [sum(expected, start=torch.zeros(()))])


def test_scales_and_masks() -> None:
    model, x = sbn()
    numbers = torch.tensor([[3, 7], [1, 0], [6, 2], [5, 4]])

    def of(x: Tensor, numbers: Tensor, context: Any) -> list[Tensor]:
        programs = [context(program) for program in (model.model, model.guide)]
        with Given(values_of(numbers)):
            loss = PIWAE(2, 2).differentiable_loss(*programs, x)
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    first = of(x[:1], numbers[:, :1], lambda program: program)
    second = of(x[1:], numbers[:, 1:], lambda program: program)
    mask = torch.tensor([True, False])
    assert_same(of(x, numbers, lambda program: poutine.mask(program, mask=mask)), first)
    scale = torch.tensor([2.5, 1.0], dtype=torch.double)
    expected = [2.5 * a + b for a, b in zip(first, second, strict=True)]
    assert_same(of(x, numbers, lambda program: poutine.scale(program, scale=scale)), expected)


def test_functions_with_pyro_param_are_trained_by_svi() -> None:
    x = 1.0 + 2.0 * torch.randn(100)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=50) as index:
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=50) as index:
            slope = pyro.param("slope", torch.tensor(0.0))
            pyro.sample("z", dist.Normal(x[index] * slope, 0.7))

    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=PIWAE(3, 2))
    for _ in range(150):
        svi.step(x)
    assert abs(pyro.param("slope").item() - 0.5) < 0.25
    assert abs(pyro.param("loc").item() - x.mean().item()) < 0.4


def test_values_are_those_of_iwae_with_and_without_gradients() -> None:
    model, x = exact.vae(), exact.data()
    values = []
    for objective in (PIWAE(2, 3), IWAE(6)):
        pyro.set_rng_seed(0)
        values.append(objective.loss(model.model, model.guide, x))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_wrong_arguments_are_named() -> None:
    for arguments, says in (
        ((0, 2), "m should be a whole number of at least 1, was 0"),
        ((2, 0), "k should be a whole number of at least 1, was 0"),
    ):
        with pytest.raises(ValueError, match=says):
            PIWAE(*arguments)
    marked = Toy(3, marked=True)
    with pytest.raises(ValueError, match=r"'y' should not be enumerated by the guide.*use ELBO"):
        PIWAE(2, 2).loss(marked.model, marked.guide, torch.randn(3))
