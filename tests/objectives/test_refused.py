"""What objectives and measurements are not for: each refuses it with a sentence."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from every_measurement import MEASURES, NEED_ARVIZ
from every_objective import LOSSES, N, Pair, data, every_loss
from support import CASE, make
from torch import Tensor

import ppl_vae.inference
from ppl_vae import Model, fit
from ppl_vae.inference import kl_per_site, mean_loss
from ppl_vae.models import BernoulliNet, DiagNormalNet


def shared(kind: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """A pair with a latent w that belongs to all data."""

    def model(x: Tensor, *labels: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Pair(kind).latent(torch.zeros(len(x))))
            pyro.sample("x", dist.Normal(y + w, 1.0), obs=x)

    def guide(x: Tensor, *labels: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", Pair(kind).latent(0.1 * x))

    return model, guide


def nothing(x: Tensor, *labels: Tensor) -> None:
    """A guide that draws nothing."""


def all_given(x: Tensor, *labels: Tensor) -> None:
    """A model without latents."""
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x)


@every_loss
def test_programs_that_it_is_not_for_are_refused(name: str) -> None:
    loss, pair = LOSSES[name], Pair(LOSSES[name].kinds[0])
    x = data(loss)
    programs = shared(pair.kind)
    if loss.shared:
        assert loss.make().differentiable_loss(*programs, *x).isfinite()
    else:
        with pytest.raises(ValueError, match="'w' should lie in the data plate, but it belongs to"):
            loss.make().differentiable_loss(*programs, *x)
    if loss.empty:
        assert loss.make().differentiable_loss(all_given, nothing, *x).isfinite()
    else:
        says = (
            "guide should draw|a guide that draws no latent|baseline should be None where|"
            "should have a site 'y', had"
        )
        with pytest.raises(ValueError, match=says):
            loss.make().differentiable_loss(all_given, nothing, *x)


@every_loss
def test_data_that_are_empty_or_not_numbers_are_refused(name: str) -> None:
    loss, pair = LOSSES[name], Pair(LOSSES[name].kinds[0])
    x, *labels = data(loss)
    objective = loss.make()
    with pytest.raises(ValueError, match="data should hold at least one datum, was empty"):
        objective.differentiable_loss(pair.model, pair.guide, x[:0], *(y[:0] for y in labels))
    holed = torch.where(torch.arange(N) == 2, torch.nan, x)
    with pytest.raises(ValueError, match=r"invalid values|within the support"):  # Pyro's words
        objective.differentiable_loss(pair.model, pair.guide, holed, *labels)
    case = CASE["m2-semi-supervised" if loss.labels else "vae"]
    model, (pixels, *classes) = make(case), case.data(0)
    holed = np.where(np.arange(6) == 2, np.nan, pixels)
    for wrong, says in (
        ((holed, *classes), "x should be finite, held NaN"),
        ((pixels[:0], *(y[:0] for y in classes)), "data should hold at least one datum"),
        ((pixels.tolist(), *classes), "data should be arrays .*held list"),
    ):
        with pytest.raises(ValueError, match=says):
            fit(model, wrong, objective, epochs=1, progress=False)
        with pytest.raises(ValueError, match=says):
            mean_loss(model, wrong, objective)


class SharedModel(Model):
    """A latent variable that belongs to all data."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim = 6
        self.decoder, self.encoder = BernoulliNet(1, 6, ()), DiagNormalNet(1, 1, ())

    def model(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("z", self.encoder(torch.zeros(1)))


def test_kl_terms_of_a_pair_without_latents() -> None:
    case = CASE["classifier"]
    with pytest.raises(ValueError, match="guide should draw a latent site"):
        kl_per_site(make(case), case.data(0))


# What has a message of its own for latents that belong to all data; bounds are refused above.
OF_THE_DATA = [*MEASURES, *NEED_ARVIZ]
for _name in ("mean_loss", "impute", "gradient_stats", "compare"):
    OF_THE_DATA.remove(_name)


@pytest.mark.parametrize("name", OF_THE_DATA)
def test_latents_that_belong_to_all_data_cannot_be_measured(name: str) -> None:
    if name in NEED_ARVIZ:
        pytest.importorskip("arviz", reason="ArviZ is not installed")
    measure = {**MEASURES, **NEED_ARVIZ}[name]
    with pytest.raises(ValueError, match=r"'z' should (lie|be drawn) in the data plate"):
        measure(ppl_vae.inference, SharedModel(), torch.ones(6, 6))
