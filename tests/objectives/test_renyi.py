"""Renyi bounds and the chi upper bound against sums over all draws, and against log p(x)."""

import copy
import math
from typing import Any

import bounds
import linear_gaussian as exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from draws_support import HANDLERS, PARAMETERS, Numbers, data
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from renyi_support import wide
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO, VAE
from ppl_vae.inference import CUBO, IWAE, Renyi
from ppl_vae.inference.draws import draw
from ppl_vae.models import DiagNormalNet

INF = float("inf")


def renyi(alpha: float) -> bounds.Bound:
    if alpha == -INF:
        return lambda log_w: log_w.max(-2).values
    return lambda log_w: (
        (((1 - alpha) * log_w).logsumexp(-2) - math.log(log_w.shape[-2])) / (1 - alpha)
    )


@pytest.mark.parametrize("encoder", [DiagNormalNet, exact.UnreparametrisedNet])
@pytest.mark.parametrize("alpha", [-INF, -1.5, 0.5, 2.0])
def test_value_and_gradients_are_those_of_the_expected_bound(
    alpha: float, encoder: type[DiagNormalNet]
) -> None:
    model, x = bounds.pair(encoder)
    loss = -bounds.expected(renyi(alpha), *bounds.of_vae(model, x, count=300)).sum()
    bounds.assert_expected(Renyi(alpha, 2), model, x, list(model.parameters()), loss)


@pytest.mark.parametrize("normal", [dist.Normal, NonreparameterizedNormal])
def test_discrete_and_mixed_latents(normal: Any) -> None:
    toy, x = Toy(3, marked=False, normal=normal), torch.randn(2, dtype=torch.double)
    loss = -bounds.expected(renyi(0.5), *bounds.of_toy(toy, x)).sum()
    bounds.assert_expected(Renyi(0.5, 2), toy, x, toy.parameters, loss)


def found(model: VAE, objective: Any, x: Tensor) -> list[Tensor]:
    loss = lambda: objective.differentiable_loss(model.model, model.guide, x)  # noqa: E731
    return gradients(loss, model.parameters())


def test_limits() -> None:
    model, x = exact.vae(), exact.data()
    assert_same(found(model, Renyi(0.0, 4), x), found(model, IWAE(4), x))
    for alpha in (1 - 1e-6, 1 + 1e-6):
        assert_same(found(model, Renyi(alpha, 4), x), found(model, ELBO(4), x), tolerance=1e-3)
    assert_same(found(model, Renyi(-3e3, 4), x), found(model, Renyi(-INF, 4), x), tolerance=1e-2)
    for alpha in (-INF, -1.0, 0.5, 3.0):
        assert_same(found(model, Renyi(alpha, 1), x), found(model, ELBO(), x))


@pytest.mark.parametrize("alpha", [-INF, -1.0, 0.5])
def test_scales_multiply_the_bound_of_a_datum(alpha: float) -> None:
    pair, x = Numbers(size=8), data()

    def by_hand() -> Tensor:
        draws = draw(pair.model, pair.guide, x, k=3)
        p, q = draws.model, draws.guide
        log_w = p["z"].log_prob + p["x"].log_prob - q["z"].log_prob
        return -(20 / 8 * renyi(alpha)(log_w)).sum()

    def ours() -> Tensor:
        return Renyi(alpha, 3).differentiable_loss(pair.model, pair.guide, x)

    assert_same(gradients(ours, PARAMETERS), gradients(by_hand, PARAMETERS))


def test_the_bounds_are_in_order() -> None:
    """ELBO <= Renyi(0.5) <= IWAE <= log p <= CUBO_1.5 <= CUBO_2, with q wider than p(z | x)."""
    model, x = wide()
    copies = x.repeat(40, 1)
    levels = [ELBO(500), Renyi(0.5, 500), IWAE(500)]
    below = [-o.loss(model.model, model.guide, copies) / 40 for o in levels]
    above = [CUBO(n, 500).loss(model.model, model.guide, copies) / 40 for n in (1.5, 2.0)]
    log_p = bounds.log_evidence(*bounds.of_vae(model, x)).sum().item()
    assert below[0] + 0.05 < below[1] < below[2] - 0.05 < log_p - 0.04
    assert log_p + 0.02 < above[0] < above[1] - 0.02


def cubo(n: float, log_prob: Tensor, log_w: Tensor) -> Tensor:
    """The bound itself, of each datum."""
    return (log_prob + n * log_w).logsumexp(0) / n


@pytest.mark.parametrize("n", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("encoder", [DiagNormalNet, exact.UnreparametrisedNet])
def test_cubo_and_its_gradient_by_the_guide_as_particles_grow(
    n: float, encoder: type[DiagNormalNet]
) -> None:
    model, x = wide()
    parameters = list(model.encoder.parameters())
    expected = gradients(lambda: cubo(n, *bounds.of_vae(model, x)).sum(), parameters)
    model.encoder.__class__ = encoder
    many = gradients(
        lambda: CUBO(n, 300_000).differentiable_loss(model.model, model.guide, x), parameters
    )
    for ours, theirs in zip(many, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.03)
    assert sum(theirs.abs().sum() for theirs in expected[1:]) > 1


def test_cubo_of_few_particles_written_out() -> None:
    """(1) with paths by a copy of the model whose parameters are fixed, and (2)."""
    model, x = exact.vae(), exact.data()
    parameters, n = list(model.encoder.parameters()), 2.5
    fixed = copy.deepcopy(model).requires_grad_(False)

    def by_path() -> Tensor:
        z = draw(model.model, model.guide, x, k=4).guide["z"].value
        log_w = fixed.prior().log_prob(z) + fixed.decoder(z).log_prob(x)
        log_w = log_w - fixed.encoder(x).log_prob(z)
        bound = (n * log_w.detach()).exp().mean(0).log().sum() / n
        path = (1 - n) * ((n * log_w.detach()).softmax(0) * log_w).sum()
        return bound + path - path.detach()

    ours = lambda: CUBO(n, 4).differentiable_loss(model.model, model.guide, x)  # noqa: E731
    assert_same(gradients(ours, parameters), gradients(by_path, parameters))
    assert all(not grad.any() for grad in gradients(ours, model.decoder.parameters())[1:])
    model.encoder.__class__ = exact.UnreparametrisedNet

    def by_score() -> Tensor:
        z = draw(model.model, model.guide, x, k=4).guide["z"].value
        log_q = model.encoder(x).log_prob(z)
        log_w = (model.prior().log_prob(z) + model.decoder(z).log_prob(x) - log_q).detach()
        score = (1 - n) / n * ((n * log_w).softmax(0) * log_q).sum()
        return (n * log_w).exp().mean(0).log().sum() / n + score - score.detach()

    assert_same(gradients(ours, parameters), gradients(by_score, parameters))


def test_cubo_is_the_evidence_at_the_posterior_and_its_gradient_zero() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    loss = CUBO(2.0, 5).differentiable_loss(model.model, model.guide, x)
    assert loss.item() == pytest.approx(exact.log_evidence(model, x).sum().item(), abs=1e-9)
    for grad in torch.autograd.grad(loss, list(model.encoder.parameters())):
        assert grad.abs().max() < 1e-10


@pytest.mark.parametrize("name", ["subsample", "scale-per-datum"])
def test_cubo_counts_a_datum_by_its_scale(name: str) -> None:
    size = 8 if name == "subsample" else None
    pair = Numbers(size=size, both=HANDLERS.get(name, HANDLERS["plain"]))
    factor = 2.5 if size else torch.linspace(0.5, 2.0, 20)
    pyro.set_rng_seed(0)
    draws = draw(pair.model, pair.guide, data(), k=3)
    log_w = sum(site.log_prob for site in draws.model.values()) - draws.guide["z"].log_prob
    expected = (factor * (2 * log_w).exp().mean(0).log() / 2).sum().item()
    pyro.set_rng_seed(0)
    assert CUBO(2.0, 3).loss(pair.model, pair.guide, data()) == pytest.approx(expected, rel=1e-6)


def test_svi_lowers_cubo() -> None:
    """E_q[w^2] of normal distributions is least where q is the posterior."""
    x = torch.tensor([0.5, 1.0, -0.4])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            scale = pyro.param("scale", torch.tensor(1.2), constraint=dist.constraints.positive)
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x, scale))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=CUBO(2.0, 20))
    for _ in range(150):
        svi.step(x)
    assert pyro.param("scale").item() == pytest.approx(0.5**0.5, abs=0.05)
    assert pyro.param("slope").item() == pytest.approx(0.5, abs=0.1)


def test_wrong_arguments_are_named() -> None:
    for make, says in (
        (lambda: Renyi(1.0, 3), r"alpha should not be 1.*use ELBO"),
        (lambda: Renyi(INF, 3), "alpha should be a number or -inf, was inf"),
        (lambda: Renyi(math.nan, 3), "alpha should be a number or -inf, was nan"),
        (lambda: Renyi(0.5, 0), "k should be a whole number"),
        (lambda: CUBO(1, 3), "n should be a number above 1, was 1"),
        (lambda: CUBO(0.5, 3), "n should be a number above 1, was 0.5"),
        (lambda: CUBO(2, 0), "k should be a whole number"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    marked = Toy(3, marked=True)
    for objective in (Renyi(0.5, 2), CUBO(2, 2)):
        with pytest.raises(ValueError, match="'y' should not be enumerated by the guide"):
            objective.loss(marked.model, marked.guide, torch.randn(3))
