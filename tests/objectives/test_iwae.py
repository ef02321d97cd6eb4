"""Importance weighted bounds against sums over all pairs of draws, and against log p(x)."""

from collections.abc import Callable
from typing import Any

import bounds
import linear_gaussian as exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from draws_support import HALF, HANDLERS, PARAMETERS, Numbers, data
from plates_support import Globals
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import SVI
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO
from ppl_vae.inference import CIWAE, IWAE, MIWAE
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.log_weights import log_weights
from ppl_vae.models import DiagNormalNet


def ciwae(log_w: Tensor) -> Tensor:
    return 0.3 * log_w.mean(-2) + 0.7 * bounds.log_mean_exp(log_w)


TWO = [
    pytest.param(IWAE(2), bounds.log_mean_exp, id="IWAE"),
    pytest.param(MIWAE(3, 2), bounds.log_mean_exp, id="MIWAE"),
    pytest.param(CIWAE(0.3, 2), ciwae, id="CIWAE"),
]


@pytest.mark.parametrize("encoder", [DiagNormalNet, exact.UnreparametrisedNet])
@pytest.mark.parametrize(("objective", "bound"), TWO)
def test_value_and_gradients_are_those_of_the_expected_bound(
    objective: Any, bound: bounds.Bound, encoder: type[DiagNormalNet]
) -> None:
    model, x = bounds.pair(encoder)
    loss = -bounds.expected(bound, *bounds.of_vae(model, x)).sum()
    bounds.assert_expected(objective, model, x, list(model.parameters()), loss)


@pytest.mark.parametrize("normal", [dist.Normal, NonreparameterizedNormal])
@pytest.mark.parametrize(("objective", "bound"), TWO)
def test_discrete_and_mixed_latents(objective: Any, bound: bounds.Bound, normal: Any) -> None:
    toy, x = Toy(3, marked=False, normal=normal), torch.randn(2, dtype=torch.double)
    loss = -bounds.expected(bound, *bounds.of_toy(toy, x)).sum()
    bounds.assert_expected(objective, toy, x, toy.parameters, loss)


def test_more_particles_come_nearer_to_the_evidence() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    copies, log_p = x.repeat(2000, 1), exact.log_evidence(model, x).sum().item()
    levels = [ELBO(), IWAE(2), IWAE(3), IWAE(20)]
    values = [-o.loss(model.model, model.guide, copies) / 2000 for o in levels]
    assert values == sorted(values)
    assert values[0] + 0.1 < values[1] < values[2] - 0.05 < values[3] - 0.1 < log_p - 0.1


@pytest.mark.parametrize("objective", [IWAE(3), MIWAE(2, 3), CIWAE(0.4, 3)])
def test_it_is_the_evidence_in_every_draw_at_the_posterior(objective: Any) -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    loss = objective.loss(model.model, model.guide, x)
    assert loss == pytest.approx(-exact.log_evidence(model, x).sum().item(), abs=1e-9)


@pytest.mark.parametrize("objective", [IWAE(1), MIWAE(1, 1), CIWAE(0.3, 1), CIWAE(1.0, 1)])
@pytest.mark.parametrize("normal", [dist.Normal, NonreparameterizedNormal])
def test_of_one_particle_it_is_the_elbo_in_every_draw(objective: Any, normal: Any) -> None:
    toy, x = Toy(3, marked=False, normal=normal), torch.randn(5, dtype=torch.double)
    losses = [gradients(toy.loss(o, x), toy.parameters) for o in (objective, ELBO())]
    assert_same(*losses)


def test_limits_of_the_combinations() -> None:
    model, x = exact.vae(), exact.data()
    parameters = list(model.parameters())

    def found(objective: Any) -> list[Tensor]:
        loss = lambda: objective.differentiable_loss(model.model, model.guide, x)  # noqa: E731
        return gradients(loss, parameters)

    assert_same(found(CIWAE(1.0, 4)), found(ELBO(4)))
    assert_same(found(CIWAE(0.0, 4)), found(IWAE(4)))
    assert_same(found(MIWAE(4, 1)), found(ELBO(4)))
    assert_same(found(MIWAE(1, 4)), found(IWAE(4)))


@pytest.mark.parametrize("name", [*HANDLERS, "subsample"])
def test_scales_multiply_the_bound_of_a_datum(name: str) -> None:
    both = HANDLERS.get(name, HANDLERS["plain"])
    pair, x = Numbers(size=8 if name == "subsample" else None, both=both), data()
    factor = {
        "scale": 2.5,
        "scale-per-datum": torch.linspace(0.5, 2.0, 20),
        "mask": HALF.double(),
        "subsample": 20 / 8,
    }.get(name, 1.0)

    def by_hand() -> Tensor:
        draws = draw(pair.model, pair.guide, x, k=3)
        p, q = draws.model, draws.guide
        log_w = p["z"].log_prob + p["x"].log_prob - q["z"].log_prob
        return -(factor * bounds.log_mean_exp(log_w)).sum()

    def ours() -> Tensor:
        return IWAE(3).differentiable_loss(pair.model, pair.guide, x)

    # A scale of Pyro's is in single precision.
    assert_same(gradients(ours, PARAMETERS), gradients(by_hand, PARAMETERS), tolerance=1e-6)


def test_a_subsampled_plate_stands_for_the_whole() -> None:
    pair, x = Numbers(size=8), data()
    losses = torch.tensor([IWAE(5).loss(pair.model, pair.guide, x) for _ in range(400)])
    whole = Numbers()
    losses_of_all = [IWAE(5).loss(whole.model, whole.guide, x) for _ in range(400)]
    expected = torch.tensor(losses_of_all).mean()
    assert abs(losses.mean() - expected) < 4 * losses.std() / 20
    assert losses.std() < 0.3 * expected.abs()


def test_a_class_that_only_the_model_enumerates_is_summed_out_of_each_weight() -> None:
    toy, x = Toy(3, marked=True), torch.randn(5, dtype=torch.double)

    def by_hand() -> Tensor:
        site = draw(Toy.model.__get__(toy), toy.guide_of_z, x, k=3).guide["z"]
        z = site.value
        log_p_x = bounds.standard_normal(x - toy.a * z - toy.m[:, None, None])
        log_p_x = (toy.pi.log_softmax(-1)[:, None, None] + log_p_x).exp().sum(0).log()
        log_w = log_p_x + bounds.standard_normal(z) - site.log_prob
        return -bounds.log_mean_exp(log_w).sum()

    used = [toy.pi, toy.m, toy.g, toy.s, toy.a, toy.h]
    ours = gradients(toy.loss(IWAE(3), x, toy.guide_of_z), used)
    assert_same(ours, gradients(by_hand, used))
    keep = torch.arange(5) < 2
    masked = [poutine.mask(program, mask=keep) for program in (toy.model, toy.guide_of_z)]
    log_w = log_weights(draw(*masked, x, k=3))
    assert (log_w[:, ~keep] == 0).all()
    assert (log_w[:, keep] != 0).all()


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
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=IWAE(5))
    for _ in range(150):
        svi.step(x)
    assert abs(pyro.param("slope").item() - 0.5) < 0.25
    assert abs(pyro.param("loc").item() - x.mean().item()) < 0.4


def test_what_has_no_such_bound_is_refused() -> None:
    x = data()
    plain = Numbers()
    scaled = Numbers()
    scaled.likelihood_only = HANDLERS["scale"]
    marked, shared = Toy(3, marked=True), Globals(lambda: dist.Normal(0.0, 1.0))
    refused: list[tuple[Any, Callable[..., None], str]] = [
        (scaled.model, scaled.guide, r"one scale.*had 1.0 \('z'\) and 2.5 \('x'\): use ELBO"),
        (marked.model, marked.guide, r"'y' should not be enumerated by the guide.*use ELBO"),
        (shared.model, shared.guide, r"'w' should lie in the data plate.*use ELBO"),
        (poutine.condition(plain.model, {"z": x}), lambda x: None, "guide should draw a latent"),
    ]
    for model, guide, says in refused:
        for objective in (IWAE(2), MIWAE(2, 2), CIWAE(0.5, 2)):
            with pytest.raises(ValueError, match=says):
                objective.loss(model, guide, x)


def test_wrong_arguments_are_named() -> None:
    for make, says in (
        (lambda: IWAE(0), "k should be a whole number of at least 1, was 0"),
        (lambda: MIWAE(0, 3), "m should be a whole number of at least 1, was 0"),
        (lambda: MIWAE(2, 1.5), "k should be a whole number"),
        (lambda: CIWAE(1.5, 3), r"beta should be a number in \[0, 1\], was 1.5"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
