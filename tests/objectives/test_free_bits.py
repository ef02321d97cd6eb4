"""Free bits per site and per unit, against closed forms."""

from pathlib import Path
from typing import Any

import linear_gaussian as exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support import CASE, assert_same, equal, gradients, make, tensors, weights
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO, fit, mean_loss
from ppl_vae.inference.draws import draw
from ppl_vae.models import VAE
from ppl_vae.shared.objectives.free_bits import FreeBits


def kl_of_units(model: VAE, x: Tensor) -> Tensor:
    """KL(q || N(0, 1)) of each unit, averaged over the data (Kingma & Welling 2014, appendix B)."""
    m, log_var = model.encoder.loc(x), model.encoder.log_var(x)
    return (-0.5 * (1 + log_var - m**2 - log_var.exp())).mean(0)


def between(kl: Tensor) -> float:
    """A number of nats that one unit has and the other has not."""
    small, large = sorted(kl.tolist())
    return (small + large) / 2


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize("per", ["site", "unit"])
def test_the_closed_form(k: int, beta: float, per: Any) -> None:
    """What free bits add to the loss is known, and nothing else changes."""
    model, x = exact.vae(), exact.data()
    each = kl_of_units(model, x).detach()
    if per == "site":
        each = each.sum()[None]
    nats = between(each) if per == "unit" else each.item() + 0.5

    def added() -> Tensor:
        losses = []
        for free_bits in (FreeBits(nats, per), 0.0):
            pyro.set_rng_seed(0)
            objective = ELBO(k, True, beta=beta, free_bits=free_bits)
            losses.append(objective.differentiable_loss(model.model, model.guide, x))
        return losses[0] - losses[1]

    def by_hand() -> Tensor:
        kl = kl_of_units(model, x)
        kl = kl.sum()[None] if per == "site" else kl
        return len(x) * beta * sum((nats - one for one in kl if one < nats), torch.zeros(()))

    encoder = list(model.encoder.parameters())
    assert_same(gradients(added, encoder), gradients(by_hand, encoder))


def test_a_unit_without_bits_gets_no_gradient_of_its_kl() -> None:
    """Where the data say nothing, the loss is the KL of the units above lambda, and no more."""
    model, x = exact.vae(), exact.data()
    with torch.no_grad():
        model.decoder.loc.weight.zero_()
        model.decoder.log_var.weight.zero_()
    kl = kl_of_units(model, x).detach()
    objective = ELBO(analytic_kl=True, free_bits=FreeBits(between(kl), "unit"))
    loss = objective.differentiable_loss(model.model, model.guide, x)
    (grad,) = torch.autograd.grad(loss, [model.encoder.loc.weight])
    assert (grad.abs().sum(-1) > 1e-3).tolist() == (kl == kl.max()).tolist()
    assert grad[kl.argmin()].abs().max() < 1e-12


@pytest.mark.parametrize("k", [1, 3])
def test_of_the_draws_by_hand(k: int) -> None:
    case = CASE["ladder"]
    model, data = make(case).double(), tensors(case.data(0), torch.double)

    def terms() -> tuple[Tensor, list[Tensor]]:
        sites = draw(model.model, model.guide, *data, k=k)
        kls = []
        for name in ("z_1", "z_2", "z_3"):
            p, q = sites.model[name], sites.guide[name]
            kl = q.fn.base_dist.log_prob(q.value) - p.fn.base_dist.log_prob(q.value)
            kls += kl.reshape(-1, kl.shape[-1]).mean(0).unbind()
        return sites.model["x"].log_prob.mean(), kls

    pyro.set_rng_seed(0)
    sizes = sorted(kl.item() for kl in terms()[1])
    assert len(sizes) > 3  # there are more units than sites
    nats = (max(sizes[-2], 0.0) + sizes[-1]) / 2

    def by_hand() -> Tensor:
        log_p, kls = terms()
        return -len(data[0]) * (log_p - sum(kl.clamp(min=nats) for kl in kls))

    def ours() -> Tensor:
        objective = ELBO(k, free_bits=FreeBits(nats, "unit"))
        return objective.differentiable_loss(model.model, model.guide, *data)

    found, expected = (gradients(loss, model.parameters()) for loss in (ours, by_hand))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


LOC = torch.tensor([[0.1, 2.0, 0.3], [1.5, 0.2, 0.1]], dtype=torch.double)


def of_plates(event: bool, shape: torch.Size, loc: Tensor) -> Any:
    """Two rows and three columns of latents of a datum: in plates, or the columns an event."""

    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("row", 2, dim=-2):
            if event:
                where = loc.expand(shape)[:, None].expand(2, len(x), 3)
                pyro.sample("z", dist.Normal(where, 1.0).to_event(1))
            else:
                with pyro.plate("column", 3, dim=-3):
                    where = loc.expand(shape).T[..., None].expand(3, 2, len(x))
                    pyro.sample("z", dist.Normal(where, 1.0))

    return program


@pytest.mark.parametrize("event", [True, False])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("analytic_kl", [True, False])
def test_places_in_inner_plates_are_units(event: bool, k: int, analytic_kl: bool) -> None:
    guide = of_plates(event, LOC.shape, LOC)
    model = of_plates(event, LOC.shape, torch.zeros_like(LOC))
    losses, x = [], torch.zeros(5)
    for nats in (0.0, 0.5):
        pyro.set_rng_seed(0)
        objective = ELBO(
            k,
            analytic_kl,
            free_bits=FreeBits(nats, "unit"),
            max_plate_nesting=2 if event else 3,
        )
        losses.append(objective.loss(model, guide, x))
    if analytic_kl:
        expected = (0.5 - 0.5 * LOC**2).clamp(min=0).sum().item()
        assert losses[1] - losses[0] == pytest.approx(5 * expected)
        return
    pyro.set_rng_seed(0)
    nesting = {"max_plate_nesting": 2 if event else 3}
    z = draw(model, guide, x, k=k, **nesting).guide["z"].value
    flat = z.reshape(k, 2, 5, 3) if event else z.reshape(k, 3, 2, 5).permute(0, 2, 3, 1)
    kl = (flat * LOC[:, None] - 0.5 * LOC[:, None] ** 2).mean((0, 2))
    expected = (0.5 - kl).clamp(min=0).sum().item()
    assert losses[1] - losses[0] == pytest.approx(5 * expected)


def test_a_number_is_that_of_a_site() -> None:
    model, x = exact.vae(), exact.data()
    losses = []
    for free_bits in (3.0, FreeBits(3.0), FreeBits(3.0, "unit")):
        pyro.set_rng_seed(0)
        losses.append(ELBO(free_bits=free_bits).loss(model.model, model.guide, x))
    assert losses[0] == losses[1] != losses[2]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    case, objective = CASE["vae"], ELBO(free_bits=FreeBits(0.3, "unit"))
    settings: dict[str, Any] = {"progress": False, "device": "cpu", "batch_size": 10, "lr": 1e-2}
    whole, part = make(case), make(case)
    fit(whole, case.data(0), objective, epochs=2, **settings)
    fit(part, case.data(0), objective, epochs=1, out=tmp_path, **settings)
    for other in (0.3, FreeBits(0.3), FreeBits(0.2, "unit")):
        with pytest.raises(ValueError, match=r"objective\.free_bits"):
            fit(part, case.data(0), ELBO(free_bits=other), epochs=2, out=tmp_path, resume=True)
    fit(part, case.data(0), objective, epochs=2, out=tmp_path, resume=True, **settings)
    assert equal(weights(part), weights(whole))
    assert mean_loss(part, case.data(0), objective) == mean_loss(part, case.data(0))


def multivariate(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))


def whole_latent(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def depends(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal(y, 1.0))


def alone(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def loss_of(model: Any, guide: Any, per: Any = "unit", **settings: Any) -> Any:
    return lambda: ELBO(free_bits=FreeBits(1.0, per), **settings).loss(model, guide, torch.zeros(3))


TOY = Toy(3, marked=False)
WRONG: dict[str, tuple[Any, str]] = {
    "negative": (lambda: FreeBits(-1.0), "nats should be at least 0, was -1.0"),
    "text": (lambda: FreeBits("a"), "nats should be at least 0, was 'a'"),  # type: ignore[arg-type]
    "per": (lambda: FreeBits(1.0, "layer"), "per should be site or unit, was 'layer'"),  # type: ignore[arg-type]
    "class": (lambda: ELBO(free_bits=FreeBits), "free_bits should be at least 0"),  # type: ignore[arg-type]
    "joint": (
        loss_of(multivariate, multivariate),
        "per site where units are not independent, was per unit .*'z', a MultivariateNormal",
    ),
    "joint-prior": (loss_of(multivariate, whole_latent), "'z', a MultivariateNormal"),
    "joint-analytic": (
        loss_of(multivariate, whole_latent, analytic_kl=True),
        "units are not independent",
    ),
    "discrete": (loss_of(TOY.model, TOY.guide), "not reparametrised.* site 'y'"),
    "scaled": (loss_of(*[poutine.scale(alone, scale=2.0)] * 2), "with a scale or a mask"),
    "enumerated": (loss_of(depends, alone), "prior depends on an enumerated site.* 'z'"),
    "enumerated-site": (loss_of(depends, alone, "site"), "prior depends on an enumerated site"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
