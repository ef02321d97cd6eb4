"""The ELBO with a weight on its KL terms and with free bits, as they are trained and measured."""

from pathlib import Path
from typing import Any

import linear_gaussian as exact
import numpy as np
import pyro
import pytest
import torch
from cases import VAE as ARGUMENTS
from cases import pixels
from pyro import poutine
from pyro.infer import SVI
from support import CASE, assert_same, assert_unbiased, equal, gradients, make, tensors, weights
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO, VAE, fit, mean_loss
from ppl_vae.inference import Warmup
from ppl_vae.inference.draws import draw
from ppl_vae.models import DiagNormalNet

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "batch_size": 10, "lr": 1e-2}
LADDER = CASE["ladder"]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_value_and_gradient_are_those_of_the_terms_written_out(beta: float, k: int) -> None:
    model, data = make(LADDER).double(), tensors(LADDER.data(0), torch.double)

    def by_hand() -> Tensor:
        sites = draw(model.model, model.guide, *data, k=k)
        latent = [sites.model[z].log_prob - sites.guide[z].log_prob for z in ("z_1", "z_2", "z_3")]
        return -(sites.model["x"].log_prob + beta * sum(latent)).mean(0).sum()

    def ours() -> Tensor:
        return ELBO(k, beta=beta).differentiable_loss(model.model, model.guide, *data)

    parameters = list(model.parameters())
    found, expected = gradients(ours, parameters), gradients(by_hand, parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("encoder", "k", "analytic_kl"),
    [
        (DiagNormalNet, 300, False),
        (DiagNormalNet, 300, True),
        (exact.UnreparametrisedNet, 3000, False),
    ],
)
@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
def test_value_and_gradients_are_those_of_the_known_bound(
    encoder: type[DiagNormalNet], k: int, analytic_kl: bool, beta: float
) -> None:
    model, x, objective = exact.vae(encoder), exact.data(), ELBO(k, analytic_kl, beta=beta)

    def flat(loss: Tensor) -> Tensor:
        grads = torch.autograd.grad(loss, list(model.parameters()))
        return torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in grads)])

    # The bound is E_q log p(x | z) - KL, both known.
    expected = flat(-(exact.bound(model, x) + (1 - beta) * exact.kl(model, x)).sum())
    losses = [flat(objective.differentiable_loss(model.model, model.guide, x)) for _ in range(60)]
    assert_unbiased(torch.stack(losses), expected, errors=5.0)


def test_enumerated_latents_are_weighted_too() -> None:
    model, data = make(CASE["m2-unlabelled"]).double(), tensors(pixels(0), torch.double)
    beta = 0.3

    def by_hand() -> Tensor:
        sites = draw(model.model, model.guide, *data)
        log_p, log_q = sites.model, sites.guide
        latent = sum(log_p[name].log_prob - log_q[name].log_prob for name in ("y", "z"))
        return -(log_q["y"].log_prob.exp() * (log_p["x"].log_prob + beta * latent)).sum()

    def ours() -> Tensor:
        return ELBO(beta=beta).differentiable_loss(model.model, model.guide, *data)

    parameters = list(model.parameters())
    assert_same(gradients(ours, parameters), gradients(by_hand, parameters))


def test_observed_sites_of_any_name_are_not_weighted() -> None:
    case = CASE["m2-labelled"]
    model, data = make(case).double(), tensors(case.data(0), torch.double)
    loss = ELBO(beta=0.0).loss
    pyro.set_rng_seed(0)
    sites = draw(model.model, model.guide, *data)
    pyro.set_rng_seed(0)
    expected = -(sites.model["x"].log_prob + sites.model["y"].log_prob).sum()
    assert loss(model.model, model.guide, *data) == pytest.approx(expected.item(), rel=1e-12)


def test_global_latents_are_weighted() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", pyro.distributions.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", pyro.distributions.Normal(0.5, 0.1))

    pyro.set_rng_seed(0)
    sites = draw(model, guide, torch.ones(3))
    pyro.set_rng_seed(0)
    loss = ELBO(beta=0.25).loss(model, guide, torch.ones(3))
    latent = (sites.model["w"].log_prob - sites.guide["w"].log_prob).sum()
    assert loss == pytest.approx((-sites.model["x"].log_prob.sum() - 0.25 * latent).item())


def test_warm_up_is_linear_and_then_one() -> None:
    assert [Warmup(4)(epoch) for epoch in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    values = [Warmup(5, start=0.5)(epoch) for epoch in (1, 2, 5, 50)]
    np.testing.assert_allclose(values, [0.6, 0.7, 1.0, 1.0])
    assert Warmup(1)(1) == 1.0


def test_fit_advances_the_warm_up() -> None:
    models = [make(LADDER) for _ in range(4)]
    objectives = [ELBO(beta=Warmup(2)), ELBO(beta=0.5), ELBO(beta=Warmup(1)), ELBO()]
    for model, objective in zip(models, objectives, strict=True):
        fit(model, LADDER.data(0), objective, epochs=1, **QUIET)
    assert equal(weights(models[0]), weights(models[1]))
    assert equal(weights(models[2]), weights(models[3]))
    assert not equal(weights(models[0]), weights(models[2]))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_is_the_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    objective, data = ELBO(beta=Warmup(3), free_bits=0.05), LADDER.data(0)
    whole, first, second = make(LADDER), make(LADDER), make(LADDER, seed=9)
    expected = fit(whole, data, objective, epochs=4, **QUIET)
    fit(first, data, objective, epochs=stop, out=tmp_path, **QUIET)
    history = fit(second, data, objective, epochs=4, out=tmp_path, resume=True, **QUIET)
    assert equal(weights(second), weights(whole))
    assert history["loss"].tolist() == expected["loss"].tolist()
    for other in (ELBO(beta=Warmup(4), free_bits=0.05), ELBO(beta=Warmup(3)), ELBO(beta=0.5)):
        with pytest.raises(ValueError, match=r"cannot resume .*objective"):
            fit(make(LADDER), data, other, epochs=4, out=tmp_path, resume=True, **QUIET)


def test_what_is_measured_has_no_weights() -> None:
    model, data = make(LADDER), LADDER.data(0)
    objective = ELBO(2, True, beta=Warmup(9), free_bits=3.0)
    run = fit(model, data, objective, epochs=1, validation=LADDER.data(1), **QUIET)
    plain = ELBO(2, True)
    assert run["validation_loss"][0] == mean_loss(model, LADDER.data(1), plain)
    for weighted in (objective, ELBO(2, True, beta=4.0), ELBO(2, True, free_bits=3.0)):
        assert mean_loss(model, data, weighted) == mean_loss(model, data, plain)
    assert isinstance(objective.beta, Warmup)
    assert objective.free_bits == 3.0


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("analytic_kl", [False, True])
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_free_bits_by_hand(k: int, analytic_kl: bool, beta: float) -> None:
    model, data = make(LADDER).double(), tensors(LADDER.data(0), torch.double)

    def terms() -> tuple[Tensor, list[Tensor]]:
        sites = draw(model.model, model.guide, *data, k=k)
        kls = []
        for name in ("z_1", "z_2", "z_3"):
            p, q = sites.model[name], sites.guide[name]
            kl = q.log_prob - p.log_prob
            if analytic_kl:
                kl = torch.distributions.kl_divergence(q.fn, p.fn)
            kls.append(kl.mean())
        return sites.model["x"].log_prob.mean(), kls

    pyro.set_rng_seed(0)
    sizes = sorted(kl.item() for kl in terms()[1])
    for free_bits in (sizes[0] / 2 if sizes[0] > 0 else 1e-9, sum(sizes[1:]) / 2, sizes[2] + 1):

        def by_hand(free_bits: float = free_bits) -> Tensor:
            log_p, kls = terms()
            limited = [kl if kl > free_bits else kl.detach() * 0 + free_bits for kl in kls]
            return -len(data[0]) * (log_p - beta * sum(limited))

        def ours(free_bits: float = free_bits) -> Tensor:
            objective = ELBO(k, analytic_kl, beta=beta, free_bits=free_bits)
            return objective.differentiable_loss(model.model, model.guide, *data)

        parameters = list(model.parameters())
        found, expected = gradients(ours, parameters), gradients(by_hand, parameters)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_free_bits_below_every_kl_change_nothing() -> None:
    model, data = VAE(**ARGUMENTS).double(), tensors(pixels(0), torch.double)
    with torch.no_grad():
        model.encoder.loc.bias.fill_(3.0)
    parameters = list(model.parameters())
    losses = [
        gradients(
            lambda o=objective: o.differentiable_loss(model.model, model.guide, *data), parameters
        )
        for objective in (ELBO(analytic_kl=True), ELBO(analytic_kl=True, free_bits=0.5))
    ]
    assert_same(*losses)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"beta": -0.1}, "beta should be at least 0, was -0.1"),
        ({"beta": "warm"}, "beta should be at least 0, was 'warm'"),
        ({"free_bits": -1}, "free_bits should be at least 0, was -1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ELBO(**arguments)


def test_wrong_schedules_are_named() -> None:
    with pytest.raises(ValueError, match="epochs should be a whole number of at least 1, was 0"):
        Warmup(0)
    with pytest.raises(ValueError, match=r"start should be a number in \[0, 1\], was 2"):
        Warmup(3, start=2)


def test_what_cannot_be_weighted_is_refused() -> None:
    model, data = make(LADDER), tensors(LADDER.data(0))
    objective = ELBO(beta=Warmup(2))
    with pytest.raises(ValueError, match=r"beta should be a number .* was a Warmup"):
        SVI(model.model, model.guide, pyro.optim.Adam({}), objective).step(*data)
    assert objective.at(1).loss(model.model, model.guide, *data) < 1e9
    m2 = make(CASE["m2-unlabelled"])
    with pytest.raises(ValueError, match=r"free_bits should be 0 .* not reparametrised.* 'y'"):
        ELBO(free_bits=1.0).loss(m2.model, m2.guide, *data)
    scaled = [poutine.scale(program, 2.0) for program in (model.model, model.guide)]
    with pytest.raises(ValueError, match="free_bits should be 0 for sites with a scale or a mask"):
        ELBO(free_bits=1.0).loss(*scaled, *data)
    toy = Toy(3, marked=True)
    with pytest.raises(ValueError, match="beta should be 1 for a model that enumerates"):
        toy.loss(ELBO(beta=0.5), torch.randn(3), toy.guide_of_z)()
