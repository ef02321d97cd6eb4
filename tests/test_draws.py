"""Subsampling, scales and masks against Pyro's own estimators on the same draws."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from support import assert_same, gradients
from torch import Tensor

from ppl_vae import ELBO

N = 20
A, B, C = (torch.tensor(v, dtype=torch.double, requires_grad=True) for v in (0.7, 0.4, -0.3))
PARAMETERS = [A, B, C]
BOTH = pytest.mark.parametrize("k", [1, 3])


def data() -> Tensor:
    return torch.randn(N, dtype=torch.double)


def theirs(cls: type = Trace_ELBO, k: int = 1, nesting: int = 1) -> Any:
    return cls(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=nesting)


def agree(model: Any, guide: Any, x: Tensor, pairs: Any = None) -> None:
    """Our objectives and Pyro's give one loss and one gradient, for one particle and for three."""
    for k in (1, 3):
        for ours, other in pairs or [(ELBO(k), theirs(k=k))]:
            losses = [
                lambda o=o: o.differentiable_loss(model, guide, x)  # type: ignore[misc]
                for o in (ours, other)
            ]
            assert_same(*(gradients(loss, PARAMETERS) for loss in losses))


class Numbers:
    """z ~ N(0, 1), x ~ N(a z, 1), with effect handlers around some of it."""

    def __init__(
        self, size: int | None = None, both: Callable[[], Any] = lambda: poutine.scale(scale=1.0)
    ) -> None:
        self.size, self.both = size, both
        self.latent_only = self.likelihood_only = lambda: poutine.scale(scale=1.0)
        self.name = "data"

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as index, self.both():
            with self.latent_only():
                z = pyro.sample("z", dist.Normal(torch.zeros_like(A), 1.0))
            with self.likelihood_only():
                pyro.sample("x", dist.Normal(A * z, 1.0), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=self.size) as index, self.both():
            pyro.sample("z", dist.Normal(B * x[index], C.exp()))


HALF = torch.arange(N) % 2 == 0
HANDLERS = {
    "plain": lambda: poutine.scale(scale=1.0),
    "scale": lambda: poutine.scale(scale=2.5),
    "scale-per-datum": lambda: poutine.scale(scale=torch.linspace(0.5, 2.0, N)),
    "mask": lambda: poutine.mask(mask=HALF),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_scales_and_masks_of_both_programs(name: str) -> None:
    pair = Numbers(both=HANDLERS[name])
    agree(pair.model, pair.guide, data())
    kl = [(ELBO(1, analytic_kl=True), theirs(TraceMeanField_ELBO))]
    agree(pair.model, pair.guide, data(), kl)


@pytest.mark.parametrize("name", HANDLERS)
def test_scales_and_masks_of_the_likelihood_alone(name: str) -> None:
    pair = Numbers()
    pair.likelihood_only = HANDLERS[name]
    agree(pair.model, pair.guide, data())


def test_a_subsampled_plate_stands_for_the_whole() -> None:
    pair, x = Numbers(size=8), data()
    kl = [(ELBO(1, analytic_kl=True), theirs(TraceMeanField_ELBO))]
    agree(pair.model, pair.guide, x)
    agree(pair.model, pair.guide, x, kl)
    whole = Numbers()
    losses = torch.tensor([ELBO(20).loss(pair.model, pair.guide, x) for _ in range(300)])
    expected = ELBO(20000).loss(whole.model, whole.guide, x)
    assert abs(losses.mean() - expected) < 3 * losses.std() / 300**0.5 + 0.05
    assert losses.std() > 0.5


@pytest.mark.parametrize("name", ["scale", "scale-per-datum", "mask"])
def test_a_closed_kl_needs_one_scale_and_mask_in_both(name: str) -> None:
    pair = Numbers()
    pair.latent_only = HANDLERS[name]
    agree(pair.model, pair.guide, data())
    with pytest.raises(ValueError, match=r"'z'.*one scale and mask.*analytic_kl=False"):
        ELBO(analytic_kl=True).loss(pair.model, pair.guide, data())


def test_functions_with_pyro_param_are_trained_by_svi() -> None:
    x = 1.0 + 2.0 * torch.randn(200)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x), subsample_size=50) as index:
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), subsample_size=50) as index:
            pyro.sample("z", dist.Normal(x[index] * pyro.param("slope", torch.tensor(0.0)), scale))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=ELBO(k=2))
    for _ in range(300):
        svi.step(x)
    assert abs(pyro.param("scale").item() - 0.5**0.5) < 0.1
    assert abs(pyro.param("slope").item() - 0.5) < 0.2
    assert abs(pyro.param("loc").item()) > 0.2


def test_a_kl_without_closed_form_is_refused() -> None:
    pair, x = Numbers(), data()
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
    )

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", mixture)
            pyro.sample("x", dist.Normal(A * z, 1.0), obs=x)

    agree(model, pair.guide, x)
    with pytest.raises(ValueError, match=r"analytic_kl should be False: site 'z'.*Mixture"):
        ELBO(analytic_kl=True).loss(model, pair.guide, x)


def test_markov_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = torch.tensor(0)
            for step in pyro.markov(range(4)):
                probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])[y.long()]
                infer = {"enumerate": "parallel"}
                y = pyro.sample(f"y_{step}", dist.Categorical(probs), infer=infer)
                pyro.sample(f"x_{step}", dist.Normal(A * y, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"pyro\.markov.*TraceEnum_ELBO"):
        ELBO().loss(model, lambda x: None, data())


@pytest.mark.parametrize("k", [1, 3])
def test_a_pair_without_a_data_plate_has_global_terms_alone(k: int) -> None:
    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.tensor(2.0))

    def guide() -> None:
        pyro.sample("mean", dist.Normal(torch.tensor(0.5), 1.0))

    pyro.set_rng_seed(0)
    ours = ELBO(k).loss(model, guide)
    pyro.set_rng_seed(0)
    theirs = Trace_ELBO(k, vectorize_particles=True, max_plate_nesting=1).loss(model, guide)
    assert ours == pytest.approx(theirs, abs=1e-5)
