"""Contenders of the comparisons of speed train the same thing."""

import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro.infer
import pytest
import torch
from torch import Tensor, nn

import ppl_vae.inference
import ppl_vae.models
from ppl_vae.inference import ELBO
from ppl_vae.inference.training.step import Step
from ppl_vae.models import VAE

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # where scripts find others

import other_libraries
from by_hand import LadderByHand, SBNByHand
from speed_cases import CASES

DRAWS = 100


def in_our_order(module: nn.Module) -> list[Tensor]:
    """The parameters by hand in the order of the library's."""
    if isinstance(module, SBNByHand):
        parts = [*module.up, *module.down[1:], module.down[0]]
        return [module.prior, *(p for part in parts for p in part.parameters())]
    if isinstance(module, LadderByHand):
        pairs = [*zip(module.up, module.up_heads, strict=True)]
        pairs += [*zip(module.down, module.down_heads, strict=True)]
        # A head of both loc and log variance is two in the library.
        found = []
        for trunk, head in pairs:
            (w_loc, w_var), (b_loc, b_var) = head.weight.chunk(2), head.bias.chunk(2)
            found += [*trunk.parameters(), w_loc, b_loc, w_var, b_var]
        return [*found, *module.decoder.parameters()]
    return list(module.parameters())


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    """By every parameter, in the order of the library's."""
    loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.grad)
    return [value.detach().clone() for value in in_our_order(module)]


@pytest.mark.parametrize("name", ["vae-64", "iwae-1", "iwae-5", "m2", "ladder", "sbn"])
def test_by_hand_is_the_librarys_loss(name: str) -> None:
    """Of the same weights and random numbers: its value, and its gradient by every parameter."""
    case = CASES[name]
    model = case.model(ppl_vae.models).double()
    module = case.by_hand().double()
    with torch.no_grad():
        for theirs, ours in zip(in_our_order(module), model.parameters(), strict=True):
            assert theirs.shape == ours.shape
            ours.add_(0.1 * torch.randn_like(ours))  # biases that are not zero among them
            theirs.copy_(ours)
    x = torch.as_tensor(case.images()[:8]).double()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    step = Step(model, case.objective(ppl_vae.inference), optimizer, compile=False)
    torch.manual_seed(1)
    ours, _ = step.loss(x)
    torch.manual_seed(1)
    theirs = module(x)
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=0)
    ours.backward()
    for by_hand, parameter in zip(gradients(theirs, module), model.parameters(), strict=True):
        torch.testing.assert_close(by_hand, parameter.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vae-64", {"analytic_kl": True}),  # TraceMeanField_ELBO has closed forms
        ("iwae-1", {}),
        ("iwae-5", {}),
        ("m2", {}),
        ("ladder", {"analytic_kl": True}),
    ],
)
def test_pyros_loss_is_the_librarys(name: str, settings: dict[str, Any]) -> None:
    case = CASES[name]
    model, x = case.model(ppl_vae.models).double(), torch.as_tensor(case.images()[:8]).double()
    objective = ELBO(**settings) if settings else case.objective(ppl_vae.inference)
    found = []
    for loss in (objective, case.pyro(pyro.infer)):
        torch.manual_seed(1)
        found.append(loss.loss(model.model, model.guide, x))
    assert found[1] == pytest.approx(found[0], rel=1e-9)


@pytest.mark.slow
def test_numpyros_loss_is_the_librarys() -> None:
    """On average over draws, at the same weights."""
    pytest.importorskip("port_support")
    import jax
    import numpyro.infer

    import ppl_vae.numpyro.models

    case = CASES["iwae-5"]
    model, x = case.model(ppl_vae.models), case.images()[:2]
    pair = case.model(ppl_vae.numpyro.models, key=jax.random.key(0))
    pair = pair.with_weights(model.state_dict())
    loss = case.numpyro(numpyro.infer)

    @jax.jit
    @jax.vmap
    def draw(key: Any) -> Any:
        return loss.loss(key, {}, pair.model, pair.guide, x)

    objective, given = case.objective(ppl_vae.inference), torch.as_tensor(x)
    ours = [objective.loss(model.model, model.guide, given) for _ in range(DRAWS)]
    theirs = [float(value) for value in draw(jax.random.split(jax.random.key(1), DRAWS))]
    error = math.hypot(*(statistics.stdev(values) / DRAWS**0.5 for values in (ours, theirs)))
    assert abs(statistics.mean(ours) - statistics.mean(theirs)) < 4 * error
    assert error < 1.5  # the ELBO is farther away than four of these


def of_the_same_weights(module: nn.Module) -> VAE:
    """The library's VAE with the weights of another library's."""
    model = VAE(784, 50, (64, 64))
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), module.parameters(), strict=True):
            ours.copy_(theirs)
    return model


def assert_same_elbo(model: VAE, x: Tensor, loss: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    expected = ELBO(analytic_kl=True).loss(model.model, model.guide, x) / len(x)
    torch.manual_seed(1)
    assert float(loss()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the other libraries
def test_pythaes_loss_is_the_librarys() -> None:
    pytest.importorskip("pythae")
    module, loss = other_libraries.pythae_loss(64)
    x = torch.as_tensor(CASES["vae-64"].images())
    assert_same_elbo(
        of_the_same_weights(nn.ModuleList([module.encoder, module.decoder])), x, lambda: loss(x)
    )


@pytest.mark.filterwarnings("ignore")
def test_pixyzs_loss_is_the_librarys() -> None:
    pytest.importorskip("pixyz")
    found = other_libraries.pixyz_model(64)
    x = torch.as_tensor(CASES["vae-64"].images())
    assert_same_elbo(of_the_same_weights(found.distributions), x, lambda: found.train({"x": x}))
