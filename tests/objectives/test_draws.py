"""Subsampling, scales and masks against Pyro's own estimators on the same draws."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from draws_support import HANDLERS, A, Numbers, agree, data, theirs
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from ppl_vae import ELBO


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
