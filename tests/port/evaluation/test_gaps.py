"""The port's gaps: the same densities as Pyro's, and where gaps are known."""

from importlib import import_module
from typing import Any

import equinox as eqx
import linear_gaussian as exact
import numpy as np
import pytest
import torch
from ais_support import log_p_of_clusters, log_p_of_inner, log_p_of_rates
from gaps_support import FAST, assert_near, correlated, factorised_gap
from port_support import jax, jnp, key, numpyro
from scipy.special import gammaln

import ppl_vae.inference.evaluation.local_posteriors as pyro_local
from ppl_vae.numpyro.inference import gaps
from ppl_vae.numpyro.inference.evaluation.local_posteriors import LOCAL, fit
from ppl_vae.numpyro.models import VAE, DiagNormalNet, Model
from ppl_vae.parity import float64
from ppl_vae.shared.evaluation.estimates import bounds
from ppl_vae.shared.evaluation.local_fit import LocalFit

dist, plate, sample = numpyro.distributions, numpyro.plate, numpyro.sample


class Pair(Model):
    """A model and a guide as functions."""

    x_dim: int = eqx.field(static=True)
    program: Any = eqx.field(static=True)
    posterior: Any = eqx.field(static=True)
    unused: jax.Array

    def __init__(self, program, guide, x_dim=1):
        self.program, self.posterior, self.x_dim = program, guide, x_dim
        self.unused = jnp.zeros(())

    def model(self, *data):
        self.program(*data)

    def guide(self, *data):
        self.posterior(*data)


def port_of(model):
    """The same linear pair in the port, in single precision."""
    networks = [DiagNormalNet(*dims, (), key=key()) for dims in ((3, 2), (2, 3))]
    port = VAE(3, 2, (2,), encoder=networks[0], decoder=networks[1], key=key())
    return port.with_weights(model.state_dict())


@pytest.mark.slow
def test_gaps_of_a_linear_gaussian_pair():
    model, x = correlated(), exact.data()
    found = gaps(port_of(model), x.numpy(), ("full", "gaussian"), **FAST)
    gap = factorised_gap(exact.posterior(model, x).precision_matrix[0].detach())
    log_p, bound = (f(model, x).detach().numpy() for f in (exact.log_evidence, exact.bound))
    np.testing.assert_allclose(found.local["full"].values, log_p, atol=1e-4)
    np.testing.assert_allclose(found.approximation["full"].values, 0, atol=1e-4)
    assert_near(found.approximation["gaussian"], gap, slack=2e-3)
    assert_near(found.elbo, bound, slack=0, error=0.1)
    assert_near(found.total, log_p - bound, slack=0, error=0.1)
    amortisation = found.amortisation["gaussian"]
    assert_near(amortisation, log_p - gap - bound, slack=2e-3, error=0.1)


@pytest.mark.slow
def test_no_gap_where_the_guide_is_the_posterior_and_batches():
    model, x = exact.conjugate(exact=True), exact.data()
    found = gaps(
        port_of(model),
        x.numpy(),
        ("gaussian",),
        batch_size=3,
        **{**FAST, "k": 100, "particles": 100},
    )
    np.testing.assert_allclose(
        found.log_likelihood.values, exact.log_evidence(model, x).detach(), atol=1e-4
    )
    for gap in (found.total, found.approximation["gaussian"], found.amortisation["gaussian"]):
        np.testing.assert_allclose(gap.values, 0, atol=1e-4)


def inner(x):
    with plate("data", len(x)):
        m = sample("m", dist.Normal(0.0, 1.0))
        with plate("inner", 3, dim=-2):
            z = sample("z", dist.Normal(m, 0.8))
            sample("x", dist.Normal(z, 0.5), obs=x.T)


def inner_guide(x):
    with plate("data", len(x)):
        sample("m", dist.Normal(0.5 * x.mean(-1), 0.6))
        with plate("inner", 3, dim=-2):
            sample("z", dist.Normal(0.8 * x.T, 0.5))


@pytest.mark.slow
def test_several_sites_and_a_plate_within_a_datum():
    x = np.array([[-1.0, 0.2, 1.0], [2.0, 2.0, 2.5]], np.float32)
    found = gaps(Pair(inner, inner_guide, 3), x, ("full",), max_plate_nesting=2, **FAST)
    np.testing.assert_allclose(found.local["full"].values, log_p_of_inner(x), atol=1e-4)


def rates(x):
    with plate("data", len(x)):
        rate = sample("rate", dist.Gamma(2.5, 0.7))
        sample("x", dist.Poisson(rate), obs=x[:, 0])


def rate_guide(x):
    with plate("data", len(x)):
        sample("rate", dist.LogNormal(jnp.log(x[:, 0] + 1) - 0.3, 0.4))


def test_a_site_with_a_constraint_and_draws_in_parts(monkeypatch):
    shapes = []
    counted = lambda log_w: shapes.append(log_w.shape) or bounds(log_w)  # noqa: E731
    monkeypatch.setattr(import_module("ppl_vae.shared.evaluation.gaps"), "bounds", counted)
    x = np.array([[0.0], [3.0], [11.0]], np.float32)
    found = gaps(Pair(rates, rate_guide), x, ("gaussian",), **{**FAST, "particles": 1500})
    assert shapes == [(4000, 3), (4000, 3)]
    a, b = x[:, 0].astype(float) + 2.5, 1.7
    loc, entropy = np.log(a / b) - 0.5 / a, 0.5 * np.log(2 * np.pi * np.e / a)
    gap = gammaln(a) - a * np.log(b) - (a * loc - a + entropy)
    assert_near(found.local["gaussian"], log_p_of_rates(x) - gap, slack=2e-3)


@pytest.mark.parametrize("name", LOCAL)
def test_densities_are_those_of_pyro(name):
    theirs, (n, dim) = pyro_local.LOCAL[name], (2, 3)
    loc, scale = torch.randn(n, dim).double(), torch.rand(n, dim).double() + 0.5
    at = theirs.initial(loc, scale)
    with float64():
        first = LOCAL[name].initial(jnp.asarray(loc), jnp.asarray(scale), key=key())
    assert {k: v.shape for k, v in first.items()} == {k: tuple(v.shape) for k, v in at.items()}
    changed = {k for k, v in at.items() if not np.allclose(v, first[k])}
    assert changed == ({"first"} if name == "flow" else set())  # their random weights
    at = {k: v + 0.5 * torch.randn_like(v) for k, v in at.items()}
    noise = torch.randn(4, n, dim).double()
    u = theirs.draw(at, noise)
    with float64():
        ours = {k: jnp.asarray(v.numpy()) for k, v in at.items()}
        found = LOCAL[name].draw(ours, jnp.asarray(noise.numpy()))
        np.testing.assert_allclose(found, u, rtol=1e-9, atol=1e-9)
        log_q = LOCAL[name].log_prob(ours, found)
        np.testing.assert_allclose(log_q, theirs.log_prob(at, u), rtol=1e-9, atol=1e-9)


def banana(u):
    """log density of N(0, 1) and x = 0.3 ~ N(u_1 + u_0^2, 0.2), but for a constant."""
    return -0.5 * (u**2).sum(-1) - 0.5 * ((0.3 - u[..., 1] - u[..., 0] ** 2) / 0.2) ** 2


@pytest.mark.slow
def test_a_flow_comes_nearer_than_a_gaussian():
    effort, loc, scale = LocalFit(800, 0.02, 10, 4), jnp.zeros((1, 2)), jnp.full((1, 2), 0.4)

    @jax.jit
    def bound(key):
        found = {}
        for name in ("gaussian", "flow"):
            family, keys = LOCAL[name], jax.random.split(key, 3)
            at = fit(family, family.initial(loc, scale, key=keys[0]), banana, effort, key=keys[1])
            u = family.draw(at, jax.random.normal(keys[2], (4000, 1, 2)))
            found[name] = (banana(u) - family.log_prob(at, u)).mean()
        return found

    found = bound(key())
    z = np.linspace(-6, 6, 4001)
    log_p = -0.5 * z**2 - 0.5 * (0.3 - z**2) ** 2 / 1.04 + 0.5 * np.log(2 * np.pi * 0.04 / 1.04)
    truth = np.log(np.exp(log_p).sum() * (z[1] - z[0]))
    assert truth - found["gaussian"] > 0.4
    assert -0.05 < truth - found["flow"] < 0.5 * (truth - found["gaussian"])


@pytest.mark.parametrize(("steps", "patience"), [(5000, 2), (130, 2), (5000, 3)])
def test_it_ends_when_nothing_improves(steps, patience):
    """The bound is always 0 and its gradient by loc 1: Adam moves loc by the learning rate."""
    effort = LocalFit(steps, 0.01, 1, patience)
    start = LOCAL["gaussian"].initial(jnp.zeros((1, 1)), jnp.ones((1, 1)), key=key())
    flat = lambda u: u.sum(-1) - jax.lax.stop_gradient(u.sum(-1))  # noqa: E731
    at = jax.jit(lambda key: fit(Flat(), start, flat, effort, key=key))(key())
    blocks = [100] * (patience + 1) if steps > 200 else [100, 30]
    rates = [0.01, 0.01, 0.005, 0.0025][: len(blocks)]
    np.testing.assert_allclose(at["loc"][0, 0], np.dot(blocks, rates), rtol=1e-3)


class Flat(type(LOCAL["gaussian"])):
    """Without a density, so that the bound is what is given."""

    def log_prob(self, at, u):
        return jnp.zeros_like(u[..., 0])


@pytest.mark.slow
def test_log_p_by_annealing_where_the_guide_is_far_off():
    model, x = exact.conjugate(exact=False), exact.data()
    with torch.no_grad():
        model.encoder.loc.bias.add_(2.0)
        model.encoder.log_var.bias.fill_(-4.0)
    settings = {"k": 50, "steps": 1, "lr": 1e-9, "method": "both"}
    ais = {"chains": 50, "temperatures": 200, "leapfrog_steps": 3, "adaptation": 30}
    found = gaps(port_of(model), x.numpy(), ("gaussian",), **settings, **ais)
    truth = exact.log_evidence(model, x).detach().numpy()
    np.testing.assert_allclose(found.log_likelihood.values, truth, atol=0.15)
    assert (found.total.values > 10).all()


def discrete(x):
    with plate("data", len(x)):
        y = sample("y", dist.Bernoulli(0.5))
        sample("x", dist.Normal(y, 1.0), obs=x[:, 0])


def discrete_guide(x):
    with plate("data", len(x)):
        sample("y", dist.Bernoulli(0.5))


def shared(x):
    z = sample("z", dist.Normal(0.0, 1.0))
    with plate("data", len(x)):
        sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def shared_guide(x):
    sample("z", dist.Normal(0.0, 1.0))


def nothing(x):
    with plate("data", len(x)):
        sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])


def no_guide(x):
    pass


def clusters(x):
    with plate("data", len(x)):
        probs = jnp.array([0.3, 0.7])
        y = sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
        z = sample("z", dist.Normal(jnp.array([-0.5, 0.8])[y], 0.6))
        sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def enumerating_guide(x):
    with plate("data", len(x)):
        probs = jnp.array([0.5, 0.5])
        y = sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
        sample("z", dist.Normal(jnp.array([-0.5, 0.8])[y], 1.0))


def cluster_guide(x):
    with plate("data", len(x)):
        sample("z", dist.Normal(0.6 * x[:, 0], 0.7))


def test_a_site_that_the_model_sums_over():
    x = np.array([[-1.0], [0.4], [3.0]], np.float32)
    found = gaps(Pair(clusters, cluster_guide), x, ("gaussian",), **{**FAST, "steps": 300})
    truth = log_p_of_clusters(x)
    assert_near(found.log_likelihood, truth, slack=0)
    assert (found.amortisation["gaussian"].values > 0.02).all()
    approximation = found.approximation["gaussian"]
    assert (approximation.values > -4 * approximation.errors).all()


@pytest.mark.parametrize(
    ("program", "guide", "says"),
    [
        (
            discrete,
            discrete_guide,
            "site 'y' should be continuous or marked .* BernoulliProbs(?!:)",
        ),
        (shared, shared_guide, "site 'z' should lie in the data plate"),
        (
            nothing,
            no_guide,
            "model should have a latent site that is not enumerated, had none(?!:)",
        ),
        (clusters, enumerating_guide, "site 'y' should be enumerated by the model alone"),
        (clusters, no_guide, "site 'z' should be given as data or drawn by the guide"),
    ],
)
def test_what_has_no_gaps_is_refused(program, guide, says):
    with pytest.raises(ValueError, match=says):
        gaps(Pair(program, guide), np.ones((2, 1), np.float32), ("gaussian",), k=2, steps=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"families": ("flow",)}, "families should not hold 'flow' for a single latent number"),
        ({"families": ("iaf",)}, "families should be gaussian or full or flow, was 'iaf'"),
        ({"method": "is"}, "method should be iw or ais or both, was 'is'"),
        ({"k": 1}, "k should be a whole number of at least 2, was 1"),
        ({"draws": 0}, "draws should be a whole number of at least 1, was 0"),
        ({"particles": 0}, "particles should be a whole number of at least 1, was 0"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    x = np.ones((2, 1), np.float32)
    with pytest.raises(ValueError, match=says):
        gaps(Pair(clusters, cluster_guide), x, **{"steps": 1, **settings})
