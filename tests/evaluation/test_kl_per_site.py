"""The KL term of each latent site, where it is known, in both backends."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import CASE, make
from torch import Tensor, nn

from ppl_vae.inference import kl_per_site
from ppl_vae.models import VAE, HierarchicalVAE, Model
from ppl_vae.shared.evaluation.estimates import Estimate

N = 20_000


@torch.no_grad()
def constant() -> HierarchicalVAE:
    """q(z_1 | x), q(z_2 | z_1) and p(z_1 | z_2) are normals that depend on nothing."""
    model = HierarchicalVAE(2, (1, 1), ((), ()))
    networks = (*model.encoders, *model.conditionals)
    for network, (loc, log_var) in zip(
        networks, ((1.0, -1.0), (0.5, 0.0), (0.0, 1.0)), strict=True
    ):
        for linear, value in ((network.loc, loc), (network.log_var, log_var)):
            linear.weight.zero_()
            linear.bias.fill_(value)
    return model


# KL(N(a, e^u) || N(b, e^v)) = (v - u + (e^u + (a - b)^2) / e^v - 1) / 2
EXACT = {"z_1": (2 + (np.exp(-1) + 1) / np.e - 1) / 2, "z_2": 0.5**2 / 2}


# log q(z_2) - log p(z_2) = z_2 / 2 - 1/8 with z_2 ~ N(1/2, 1) has this deviation.
DEVIATION = 0.5


def check(terms: dict[str, Estimate]) -> None:
    assert list(terms) == ["z_1", "z_2"]
    for name, term in terms.items():
        assert len(term) == N
        assert abs(term.mean - EXACT[name]) < 4 * 1.5 / N**0.5  # no term's deviation exceeds 1.5
        assert abs(term.mean - EXACT[name]) < 4 * term.standard_error
        assert np.isnan(term.errors).all()  # of one draw
    assert terms["z_2"].standard_error == pytest.approx(DEVIATION / N**0.5, rel=0.03)


def check_draws(term: Estimate, k: int) -> None:
    """Each datum's mean of k draws, its error, and the spread over data, of z_2."""
    n, error = len(term), DEVIATION / k**0.5
    assert abs(term.values - EXACT["z_2"]).max() < 5 * error
    assert term.values.std() == pytest.approx(error, rel=4 / (2 * n) ** 0.5)
    # A variance of k normal draws has the relative deviation sqrt(2 / (k - 1)).
    assert np.mean(term.errors**2) == pytest.approx(error**2, rel=4 * (2 / (k - 1) / n) ** 0.5)
    assert term.standard_error == pytest.approx(error / n**0.5, rel=4 / (2 * n) ** 0.5)


def test_terms_are_the_closed_forms_whatever_the_batches() -> None:
    x, model = np.zeros((N, 2), np.float32), constant()
    check(kl_per_site(model, x))
    check(kl_per_site(model, x, batch_size=7777))
    assert model.training
    check_draws(kl_per_site(model, x[:2000], k=20, batch_size=300)["z_2"], 20)


@pytest.mark.slow
def test_terms_of_the_port() -> None:
    key = pytest.importorskip("port_support").key
    from ppl_vae.numpyro.inference import kl_per_site as of_port
    from ppl_vae.numpyro.models import HierarchicalVAE as Port

    port = Port(2, (1, 1), ((), ()), key=key()).with_weights(constant().state_dict())
    x = np.zeros((N, 2), np.float32)
    check(of_port(port, x, batch_size=7777))
    check_draws(of_port(port, x[:2000], k=20, batch_size=1000)["z_2"], 20)
    with pytest.raises(ValueError, match="k should be a whole number of at least 1, was 0"):
        of_port(port, x, k=0)


def test_a_guide_that_is_the_prior_has_none() -> None:
    c, x = CASE["gsnn"].data(0)
    terms = kl_per_site(make(CASE["gsnn"]), (c, x))
    assert list(terms) == ["z"]
    np.testing.assert_array_equal(terms["z"].values, 0.0)


def test_enumerated_sites_are_refused() -> None:
    x = CASE["m2-unlabelled"].data(0)
    with pytest.raises(ValueError, match="site 'y' should be drawn in the data plate"):
        kl_per_site(make(CASE["m2-unlabelled"]), x)


class Mixture(Model):
    """z depends on a class, which the model sums over unless it is given; the guide gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim, self.unused = 2, nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            logits = torch.zeros(2)
            y = pyro.sample(
                "y", dist.Categorical(logits=logits), obs=y, infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", dist.Normal(2.0 * y, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand_by([2]).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=torch.tensor([0.0, 3.0])), obs=y)
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))


def test_a_class_that_is_given_has_no_term() -> None:
    """E log N(z; x, 1) / N(z; 2 y, 1) = (x - 2 y)^2 / 2, of z and of nothing else."""
    x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]]), torch.tensor([1, 0, 1])
    terms = kl_per_site(Mixture(), (x, y), k=2000)
    assert list(terms) == ["z"]
    exact = (x[:, 0] - 2 * y).numpy() ** 2 / 2
    assert (abs(terms["z"].values - exact) < 4 * terms["z"].errors).all()
    assert terms["z"].errors == pytest.approx(np.sqrt(2 * exact / 2000), rel=0.1)


def test_a_prior_that_is_summed_over_is_refused() -> None:
    says = "site 'z' should have one prior, but that depends on a site that the model enumerates"
    with pytest.raises(ValueError, match=says):
        kl_per_site(Mixture(), torch.zeros(3, 2))


@pytest.mark.parametrize("log_var", [-1e4, 1e4])
def test_a_variance_that_would_overflow_is_cut(log_var: float) -> None:
    """And with it the gradient, which otherwise is 0 times infinity."""
    model: Any = VAE(2, 1, (3,))
    with torch.no_grad():
        model.encoder.log_var.bias.fill_(log_var)
    scale = model.encoder(torch.zeros(4, 2)).base_dist.scale
    np.testing.assert_allclose(scale.detach().log(), np.sign(log_var) * 40.0, rtol=1e-5)
    (1 / (1 + scale**-2)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.encoder.parameters() if p.grad is not None)
