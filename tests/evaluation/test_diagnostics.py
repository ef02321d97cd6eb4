"""Active units, collapse, the parts of the KL term and k-hat, where they are known."""

from collections.abc import Callable
from typing import Any

import bounds
import every_draw
import linear_gaussian as exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import CASE, make
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_vae.inference import (
    active_units,
    diagnose,
    elbo_surgery,
    pareto_k,
    posterior_collapse,
    to_arviz,
)
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.models import HierarchicalVAE, Model, StandardNormal

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "active_units": active_units,
    "posterior_collapse": posterior_collapse,
    "elbo_surgery": elbo_surgery,
    "pareto_k": pareto_k,
    "to_arviz": to_arviz,
    "diagnose": diagnose,
}


def two_layers(gain: float = 1.5, variance: float = 0.5) -> HierarchicalVAE:
    """q(z_1 | x) = N(x_1, variance), q(z_2 | z_1) = N(gain z_1, variance), and any model."""
    model = HierarchicalVAE(2, (1, 1), ((), ())).double()
    with torch.no_grad():
        for encoder, slope in zip(model.encoders, (1.0, gain), strict=True):
            encoder.loc.weight.copy_(torch.tensor([[slope, 0.0]])[:, : encoder.loc.in_features])
            encoder.loc.bias.zero_()
            encoder.log_var.weight.zero_()
            encoder.log_var.bias.fill_(np.log(variance))
    return model


def zeros_and_ones(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (n, 2)).astype(float)


def test_variances_of_means_that_are_known() -> None:
    model, x = exact.vae(), exact.data()
    found = active_units(model, x, threshold=0.15, k=2, batch_size=3)
    means = model.encoder.loc(x).detach().numpy()
    np.testing.assert_allclose(found.variances["z"], means.var(0, ddof=1), rtol=1e-10)
    square = (means - means.mean(0)) ** 2
    np.testing.assert_allclose(found.errors["z"], square.std(0, ddof=1) / 2, rtol=1e-10)
    np.testing.assert_array_equal(found.active["z"], means.var(0, ddof=1) > 0.15)
    assert 0 < found.total < 2
    assert str(found) == "active units: z 1 of 2"


@pytest.mark.parametrize("k", [2, 4])
def test_variances_of_means_that_are_averaged_have_no_bias(k: int) -> None:
    x = zeros_and_ones(20)
    runs = [active_units(two_layers(), x, k=k, seed=s).variances for s in range(100)]
    variance = x[:, 0].var(ddof=1)
    np.testing.assert_allclose(runs[0]["z_1"], variance)
    found = np.array([run["z_2"][0] for run in runs])
    error = found.std(ddof=1) / len(runs) ** 0.5
    noise = 1.5**2 * 0.5 / k  # what the variance of the averages has too much
    assert error < noise / 8
    assert abs(found.mean() - 1.5**2 * variance) < 4 * error


def test_discrete_units_have_the_variances_of_their_probabilities() -> None:
    for name in ("sbn", "sbn-categorical"):
        model, (x,) = make(CASE[name]), CASE[name].inputs(0)
        probs = model.encoders[0](torch.tensor(x)).base_dist.probs.detach().numpy()
        variance = probs.var(0, ddof=1)
        variance = variance if name == "sbn" else variance.sum(-1)
        np.testing.assert_allclose(active_units(model, x).variances["z_1"], variance, atol=1e-7)
    model, (x,) = make(CASE["m2-unlabelled"]), CASE["m2-unlabelled"].inputs(0)
    variance = model.classifier(torch.tensor(x)).probs.detach().numpy().var(0, ddof=1).sum()
    np.testing.assert_allclose(active_units(model, x).variances["y"], [variance], atol=1e-7)


def test_divergences_of_units_are_closed_forms() -> None:
    model, x = exact.vae(), torch.randn(50, 3).double()
    q = model.encoder(x).base_dist
    kl = kl_divergence(q, dist.Normal(torch.zeros(2).double(), 1.0)).detach().numpy()
    level = float(np.median(kl[:, 0]))
    found = posterior_collapse(model, x, epsilon=level, delta=0.5, k=2, batch_size=20)
    np.testing.assert_allclose(found.kl["z"], kl.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.errors["z"], kl.std(0, ddof=1) / 50**0.5, rtol=1e-9)
    np.testing.assert_allclose(found.sites["z"].values, exact.kl(model, x).detach(), rtol=1e-9)
    np.testing.assert_allclose(found.shares["z"], (kl < level).mean(0))
    assert found.shares["z"][0] == 0.5
    assert found.collapsed["z"][0]
    assert not posterior_collapse(model, x, epsilon=level, delta=0.49, k=2).collapsed["z"][0]


def test_a_unit_that_is_its_prior_has_collapsed() -> None:
    model, x = exact.vae(), torch.randn(50, 3).double()
    with torch.no_grad():
        for layer in (model.encoder.loc, model.encoder.log_var):
            layer.weight[1], layer.bias[1] = 0.0, 0.0
    found = posterior_collapse(model, x, k=2)
    np.testing.assert_array_equal(found.collapsed["z"], [False, True])
    np.testing.assert_array_equal(found.active.active["z"], [True, False])
    assert found.fraction == 0.5
    (_, first, second) = str(found).splitlines()
    assert "collapsed" not in first
    assert second.split()[-3:] == ["collapsed,", "not", "active"]


def test_layers_below_a_bottom_up_guide_have_no_divergence_of_a_datum() -> None:
    model = make(CASE["hierarchical"])
    x = np.concatenate([CASE["hierarchical"].inputs(seed)[0] for seed in range(20)])
    found = posterior_collapse(model, x, k=4)
    assert found.known == {"z_1": False, "z_2": True}
    assert not found.collapsed["z_1"].any()
    assert np.isfinite(found.fraction)
    # Closed forms and draws have one expectation.
    draws = TrainedPair(model, x).joint(50, lambda d: d.log_q["z_2"] - d.log_p["z_2"])
    of_draws = np.concatenate(draws, axis=1)
    error = of_draws.mean(1).std(ddof=1) / 50**0.5
    assert abs(found.sites["z_2"].mean - of_draws.mean()) < 4 * error + 0.005
    ladder, x = make(CASE["ladder"]), CASE["ladder"].inputs(0)[0]
    assert all(posterior_collapse(ladder, x).known.values())


def test_closed_forms_of_a_bottom_up_layer_would_be_wrong() -> None:
    """E[log q(z_1 | x) - log p(z_1 | z_2)] where z_2 is a copy of z_1, nearly."""
    model, x = two_layers(gain=1.0, variance=0.25), np.zeros((400, 2))
    with torch.no_grad():
        conditional = model.conditionals[0]
        conditional.loc.weight.fill_(1.0)
        conditional.loc.bias.zero_()
        conditional.log_var.weight.zero_()
        conditional.log_var.bias.zero_()
    found = posterior_collapse(model, x, k=20)
    expected = 0.5 * (-np.log(0.25) - 1 + 0.25)  # z_1 - z_2 has the variance 0.25, not 0.5
    assert abs(found.kl["z_1"][0] - expected) < 4 * found.errors["z_1"][0]
    assert found.errors["z_1"][0] < 0.02


def test_units_that_depend_on_one_another_are_looked_at_together() -> None:
    model, (x,) = make(CASE["dlgm-rank-one"]), CASE["dlgm-rank-one"].inputs(0)
    found = posterior_collapse(model, x)
    q = model.encoders[1](torch.tensor(x))
    kl = kl_divergence(q, StandardNormal(3)()).detach().numpy()
    np.testing.assert_allclose(found.kl["xi_2"], [kl.mean()], rtol=1e-4)
    assert len(found.active.variances["xi_2"]) == 3
    assert "xi_2" in str(found)


def quadrature(model: Any, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mutual information and KL(q(z) || p(z)), as integrals for each datum."""
    q = model.encoder(x).base_dist
    loc, scale = (v.detach().numpy()[:, 0] for v in (q.loc, q.scale))
    z = np.linspace(-30, 30, 60_001)[:, None]
    log_q = -0.5 * ((z - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    log_p = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    log_mixture = np.logaddexp.reduce(log_q, 1, keepdims=True) - np.log(len(x))
    weight = np.exp(log_q) * (z[1] - z[0])
    return (weight * (log_q - log_mixture)).sum(0), (weight * (log_mixture - log_p)).sum(0)


def monte_carlo_error(estimate: Any) -> float:
    return float((estimate.errors**2).sum() ** 0.5 / len(estimate))


def test_the_parts_of_the_kl_term_are_those_of_quadrature() -> None:
    model, x = bounds.pair()
    with torch.no_grad():
        model.encoder.loc.weight.mul_(4)
        model.encoder.log_var.bias.sub_(2)
    mutual, marginal = quadrature(model, x)
    found = elbo_surgery(model, x, k=4000, batch_size=2)
    np.testing.assert_allclose(found.kl.values, mutual + marginal, rtol=1e-6)
    error = monte_carlo_error(found.mutual_information)
    assert error < 0.01 < 0.1 < mutual.mean()
    assert abs(found.mutual_information.mean - mutual.mean()) < 4 * error
    assert abs(found.marginal_kl.mean - marginal.mean()) < 4 * error
    away = (found.mutual_information.values - mutual) / found.mutual_information.errors
    assert (abs(away) < 4).all()
    assert "at most log n = 1.10" in str(found)


def test_mutual_information_lies_between_0_and_log_n() -> None:
    model, x = exact.vae(), exact.data()
    same = elbo_surgery(model, x[:1].repeat(4, 1), k=3)
    np.testing.assert_allclose(same.mutual_information.values, 0.0, atol=1e-9)
    np.testing.assert_allclose(same.marginal_kl.values, same.kl.values, atol=1e-9)
    with torch.no_grad():
        model.encoder.log_var.weight.zero_()
        model.encoder.log_var.bias.fill_(-30.0)
    apart = elbo_surgery(model, x)
    np.testing.assert_allclose(apart.mutual_information.values, np.log(4), atol=1e-9)
    assert apart.log_n == pytest.approx(np.log(4))


def test_layers_are_taken_together() -> None:
    """I(x; z_1, z_2) = I(x; z_1) where z_2 depends on x by z_1 alone, draw by draw."""
    model, x = two_layers(), np.random.default_rng(0).random((5, 2))
    found = elbo_surgery(model, x, k=7, batch_size=2)
    z = np.concatenate(
        TrainedPair(model, x, batch_size=2).joint(7, lambda d: d.values["z_1"]), axis=1
    )
    log_q = -((z - x[:, 0]) ** 2)  # (7, 5, 5): variance 1/2, every draw under every datum
    own = -((z[..., 0] - x[:, 0]) ** 2)
    expected = (own - np.logaddexp.reduce(log_q, -1) + np.log(5)).mean(0)
    np.testing.assert_allclose(found.mutual_information.values, expected, rtol=1e-9)


def test_discrete_latents_by_enumeration() -> None:
    model, x = every_draw.sbn()
    log_q = every_draw.of_states(model, x)[0].detach().numpy()
    ratio = log_q - np.logaddexp.reduce(log_q, 1, keepdims=True) + np.log(2)
    mutual = (np.exp(log_q) * ratio).sum(0)
    found = elbo_surgery(model, x, k=5000).mutual_information
    assert monte_carlo_error(found) < 0.1 * mutual.mean()
    assert abs(found.mean - mutual.mean()) < 4 * monte_carlo_error(found)


@pytest.mark.parametrize("name", ["cvae", "conditional-sbn", "m1-m2-labelled"])
def test_a_prior_that_depends_on_a_condition_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"one prior.*depends on the datum.*kl_per_site"):
        elbo_surgery(make(CASE[name]), CASE[name].inputs(0))


@torch.no_grad()
def with_variance(factor: float) -> Model:
    """The exact posterior but for its variance."""
    model = exact.conjugate(exact=True)
    model.encoder.log_var.bias.add_(np.log(factor))
    return model


@pytest.mark.parametrize("factor", [0.1, 0.4])
def test_k_hat_of_a_normal_guide_that_is_too_narrow(factor: float) -> None:
    """w = exp(c z^2 / 2), c = (1 - s^2) / s^2, has the tail P(w > t) ~ t^(-1 / (1 - s^2))."""
    found = pareto_k(with_variance(factor), torch.randn(40, 3).double(), k=1000)
    assert found.values.shape == (40,)
    assert abs(np.median(found.values) - (1 - factor)) < 0.15
    assert (found.share > 0.8) == (factor == 0.1)
    assert str(found).startswith(f"k-hat: median {np.median(found.values):.2f}, above 0.7 for ")


def test_k_hat_of_guides_that_are_exact_or_wide() -> None:
    x = torch.randn(20, 3)
    for model in (with_variance(1.0), with_variance(1.0).float()):
        np.testing.assert_array_equal(pareto_k(model, x, k=100).values, -np.inf)
    wide = pareto_k(with_variance(2.0), x)
    assert np.median(wide.values) < 0  # bounded weights
    assert wide.share == 0.0


def test_weights_are_the_same_whatever_the_batches() -> None:
    model, x = with_variance(1.0), exact.data()
    log_w = TrainedPair(model, x, batch_size=3).log_weights(4000)  # in groups of 3333
    assert log_w.shape == (4000, 4)
    expected = exact.log_evidence(model, x).detach().expand(4000, 4)
    np.testing.assert_allclose(log_w, expected, atol=1e-9)


class Inner(Model):
    """Two latent numbers in a plate of their own, inside that of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim, self.slope = 2, nn.Parameter(torch.tensor([1.0, 3.0]))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 2, dim=-2):
            pyro.sample("z", dist.Normal(self.slope[:, None] * x.T, 0.5))


def test_latents_of_inner_plates_are_units() -> None:
    x, settings = torch.randn(6, 2), {"max_plate_nesting": 2}
    found = posterior_collapse(Inner(), x, k=4, batch_size=4, **settings)
    loc = x.numpy() * [1.0, 3.0]
    np.testing.assert_allclose(found.active.variances["z"], loc.var(0, ddof=1), rtol=1e-5)
    kl = 0.5 * (loc**2 + 0.25 - 1) - np.log(0.5)
    np.testing.assert_allclose(found.kl["z"], kl.mean(0), rtol=1e-5)
    surgery = elbo_surgery(Inner(), x, k=3, batch_size=4, **settings)
    np.testing.assert_allclose(surgery.kl.values, kl.sum(1), rtol=1e-5)
    pair = TrainedPair(Inner(), x, batch_size=4, **settings)
    z = np.concatenate(pair.joint(3, lambda draws: draws.values["z"]), axis=1)
    log_q = (-2 * (z[:, :, None] - loc) ** 2).sum(-1)
    ratio = np.diagonal(log_q, axis1=1, axis2=2) - np.logaddexp.reduce(log_q, -1) + np.log(6)
    np.testing.assert_allclose(surgery.mutual_information.values, ratio.mean(0), atol=1e-4)
    assert dict(to_arviz(Inner(), x, **settings).posterior.sizes)["z_unit"] == 2
    with pytest.raises(ValueError, match="max_plate_nesting should be at least 2"):
        active_units(Inner(), x)


class Odd(Model):
    """A latent that is global, or has a mask, or that the model alone enumerates."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.x_dim, self.what, self.loc = 1, what, nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        if self.what == "global":
            pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            y = torch.zeros(())
            if self.what == "enumerated":
                infer = {"enumerate": "parallel"}
                y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5)), infer=infer)
            if self.what != "global":
                with pyro.poutine.mask(mask=self.hidden(x)):
                    pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    def guide(self, x: Tensor) -> None:
        if self.what == "global":
            pyro.sample("z", dist.Normal(self.loc, 1.0))
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=self.hidden(x)):
            if self.what != "global":
                pyro.sample("z", dist.Normal(self.loc, 1.0))

    def hidden(self, x: Tensor) -> Any:
        return x[:, 0] > 0 if self.what == "mask" else True


@pytest.mark.parametrize("name", ["posterior_collapse", "elbo_surgery", "to_arviz"])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("global", "site 'z' should lie in the data plate, but it belongs to all data"),
        ("mask", "site 'z' should have no mask"),
        ("enumerated", "site 'y' should be drawn by the guide, was enumerated by the model alone"),
    ],
)
def test_latents_that_are_not_of_a_datum_are_refused(what: str, says: str, name: str) -> None:
    with pytest.raises(ValueError, match=says):
        FUNCTIONS[name](Odd(what), torch.randn(5, 1))


def test_a_site_that_the_model_alone_enumerates_is_summed_out_of_the_weights() -> None:
    x = torch.randn(4, 1)
    log_w = TrainedPair(Odd("enumerated"), x).log_weights(3)
    z = TrainedPair(Odd("enumerated"), x).guide(3, lambda draws: draws.values["z"])
    assert log_w.shape == (3, 4)
    assert z[0].shape == (3, 4)
    assert active_units(Odd("enumerated"), x).variances["z"].shape == (1,)
    # Pyro's draws of a guide depend on the seed alone, whether or not the model is run.
    log_mixture = np.logaddexp(0.0, z[0] - 0.5) - np.log(2)  # of N(0, 1) and N(1, 1) over N(0, 1)
    normal = dist.Normal(0.0, 1.0).log_prob(x[:, 0]).numpy()
    np.testing.assert_allclose(log_w, log_mixture + normal, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_input_is_named(name: str) -> None:
    function, model, x = FUNCTIONS[name], exact.vae(), exact.data()
    with pytest.raises(ValueError, match=r"x should have shape \(n, 3\)"):
        function(model, torch.rand(4, 5))
    with pytest.raises(ValueError, match="batch_size should be a whole number of at least 1"):
        function(model, x, batch_size=0)
    with pytest.raises(ValueError, match=r"k should be .*was 0"):
        function(model, x, k=0)
    with pytest.raises(ValueError, match=r"should draw a latent site|hold the conditions"):
        function(make(CASE["classifier"]), CASE["classifier"].inputs(0))
    if name in ("active_units", "posterior_collapse", "elbo_surgery", "diagnose"):
        with pytest.raises(ValueError, match="data should hold at least 2 data"):
            function(model, x[:1])


def test_wrong_numbers_are_named() -> None:
    model, x = exact.vae(), exact.data()
    with pytest.raises(ValueError, match="k should be even, for two halves of the draws, was 3"):
        active_units(model, x, k=3)
    with pytest.raises(ValueError, match=r"delta should lie in \[0, 1\), was 1"):
        posterior_collapse(model, x, delta=1.0)
    with pytest.raises(ValueError, match="epsilon should be a positive number"):
        posterior_collapse(model, x, epsilon=0.0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_costs_no_random_numbers_and_changes_no_mode(name: str) -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    before = torch.get_rng_state()
    one, two = (str(FUNCTIONS[name](model, x, seed=3)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert one == two


def test_it_is_of_evaluation() -> None:
    """Batch normalisation takes running statistics, and they stay as they are."""
    model, x = make(CASE["hierarchical-norm"]), CASE["hierarchical-norm"].inputs(0)[0]
    before = {name: value.clone() for name, value in model.named_buffers()}
    found = active_units(model, x, batch_size=5).variances["z_1"]
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    model.eval()
    means = model.encoders[0](torch.tensor(x)).mean.detach().numpy()
    np.testing.assert_allclose(found, means.var(0, ddof=1), rtol=1e-5)
