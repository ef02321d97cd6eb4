"""The port's annealed importance sampling: the same densities as Pyro's, and exact log p(x)."""

from typing import Any

import equinox as eqx
import linear_gaussian as exact
import numpy as np
import pytest
import torch
from ais_support import EXACT, FEW, assert_unbiased_weights
from cases import CASES
from port_support import jax, jnp, key, make_pair, numpyro
from pyro import poutine

import ppl_vae.inference.evaluation.hmc
import ppl_vae.inference.evaluation.tempered
from ppl_vae.inference.evaluation.tempered import Tempered as PyroTempered
from ppl_vae.numpyro.inference import log_likelihood
from ppl_vae.numpyro.inference.evaluation.bdmc import bdmc
from ppl_vae.numpyro.inference.evaluation.hmc import State, leapfrog, move
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered, increment, tempered
from ppl_vae.numpyro.models import VAE, DiagNormalNet, Model
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.parity import float64

dist, plate, sample = numpyro.distributions, numpyro.plate, numpyro.sample
CASE = {case.name: case for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hierarchical", "m2-unlabelled", "cvae"])
def test_densities_and_moves_are_those_of_pyro(name):
    model, port = make_pair(CASE[name].model)
    model.double()
    data = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in CASE[name].data(0)]
    theirs = PyroTempered(model.model, *(torch.as_tensor(a) for a in data), chains=3)
    start = theirs.start()
    momentum, size = torch.randn_like(start), 0.01 + 0.02 * torch.rand(*start.shape[:2], 1).double()
    moved = ppl_vae.inference.evaluation.hmc.leapfrog(
        lambda at: theirs.gradient(at, 0.6), start, momentum, size, 3
    )
    terms = theirs.terms(start)
    with float64():
        weights = {n: jnp.asarray(w.detach().numpy()) for n, w in model.named_parameters()}
        ours = Tempered(with_parameters(port, weights).model, *data, chains=3)
        at, by, step = (jnp.asarray(v.numpy()) for v in (start, momentum, size))
        for found, expected in zip(ours.terms(at), terms, strict=True):
            np.testing.assert_allclose(found, expected.detach(), rtol=1e-9, atol=1e-9)
        for beta in (0.0, 0.6):
            log_f = ppl_vae.inference.evaluation.tempered.tempered(terms, beta).detach()
            np.testing.assert_allclose(tempered(ours.terms(at), jnp.array(beta)), log_f, rtol=1e-9)
        step_up = ppl_vae.inference.evaluation.tempered.increment(terms, 0.2, 0.6).detach()
        found = increment(ours.terms(at), jnp.array(0.2), jnp.array(0.6))
        np.testing.assert_allclose(found, step_up, rtol=1e-9)
        ends = jax.jit(lambda a, b: leapfrog(lambda u: ours.gradient(u, 0.6), a, b, step, 3))(
            at, by
        )
        for found, expected in zip(ends, moved, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
        assert abs(ends[0] - at).max() > 1e-3


class Program(Model):
    """A model alone."""

    x_dim: int = eqx.field(static=True)
    program: Any = eqx.field(static=True)
    unused: jax.Array

    def __init__(self, program, x_dim):
        self.program, self.x_dim, self.unused = program, x_dim, jnp.zeros(())

    def model(self, *data):
        self.program(*data)


def shares(x):
    with plate("data", len(x)):
        share = sample("share", dist.Dirichlet(jnp.array([0.9, 2.0, 3.5])))
        sample("x", dist.Multinomial(probs=share, total_count=4), obs=x)


def below(x):
    with plate("data", len(x)):
        top = sample("top", dist.LogNormal(jnp.zeros(len(x)), 0.5))
        z = sample("z", dist.Uniform(-top, 2 * top))
        sample("x", dist.Normal(z, 0.6), obs=x[:, 0])


def inner(x):
    with plate("data", len(x)):
        m = sample("m", dist.Normal(0.0, 1.0))
        with plate("inner", 3, dim=-2):
            z = sample("z", dist.Normal(m, 0.8))
            sample("x", dist.Normal(z, 0.5), obs=x.T)


def clusters(x):
    with plate("data", len(x)):
        probs = jnp.array([0.3, 0.7])
        y = sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
        z = sample("z", dist.Normal(jnp.array([-0.5, 0.8])[y], 0.6))
        sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def masked(x):
    with plate("data", len(x)), numpyro.handlers.scale(scale=3.0):
        z = sample("z", dist.Normal(0.0, 1.0))
        with numpyro.handlers.mask(mask=x[:, 0] < 2):
            sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


PROGRAMS = {"shares": shares, "below": below, "inner": inner, "clusters": clusters}
PROGRAMS["masked"] = masked


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_constraints_plates_and_masks_are_those_of_pyro(name):
    program, _, rows = EXACT[name]
    settings = {"chains": 3, "max_plate_nesting": 2 if name == "inner" else 1}
    x = torch.tensor(rows, dtype=torch.double)
    theirs = PyroTempered(program, x, **settings)
    start = theirs.start()
    terms = theirs.terms(start)
    trace = poutine.trace(program).get_trace(x)
    latents = {n: trace.nodes[n]["value"] for n in theirs.names}
    with float64():
        ours = Tempered(PROGRAMS[name], jnp.asarray(rows), **settings)
        assert ours.names == theirs.names
        for found, expected in zip(ours.terms(jnp.asarray(start.numpy())), terms, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        at = ours.start(key(), {n: jnp.asarray(v.numpy()) for n, v in latents.items()})
        np.testing.assert_allclose(at, theirs.start(latents), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["below", "clusters"])
def test_weights_are_unbiased_at_few_temperatures(name):
    _, log_p, rows = EXACT[name]
    x = np.array(rows, np.float32)
    model = Program(PROGRAMS[name], x.shape[1])
    estimate = log_likelihood(model, x, temperatures=5, chains=10_000, **FEW)
    assert_unbiased_weights(estimate, log_p(x), precision=0.05)


def linear():
    """The linear Gaussian model in both backends."""
    model = exact.conjugate(exact=False)
    decoder = DiagNormalNet(exact.Z_DIM, exact.X_DIM, (), key=key())
    encoder = DiagNormalNet(exact.X_DIM, exact.Z_DIM, (), key=key())
    port = VAE(exact.X_DIM, exact.Z_DIM, (2,), encoder=encoder, decoder=decoder, key=key())
    return model, port.with_weights(model.state_dict())


@pytest.mark.slow
def test_a_move_leaves_the_density_as_it_is():
    model, port = linear()
    x, n = exact.data()[:1], 50_000
    posterior = exact.posterior(model, x)
    start = jnp.asarray(posterior.sample((n,)).numpy(), jnp.float32)
    target = Tempered(port.model, jnp.asarray(x.numpy(), jnp.float32), chains=n)

    @jax.jit
    def run(start, size):
        state = State(start, target.terms(start))
        return move(target, state, jnp.array(1.0), size, 4, key(1))

    after, probability = run(start, jnp.array([0.6]))
    assert 0.4 < probability.mean() < 0.8
    centred = torch.tensor(np.asarray(after.position)) - posterior.mean
    whitened = centred @ torch.linalg.cholesky(posterior.precision_matrix[0])
    assert (whitened.mean((0, 1)).abs() < 4 / n**0.5).all()
    assert ((whitened**2).mean((0, 1)) - 1).abs().max() < 4 * (2 / n) ** 0.5
    moved = np.asarray((after.position != start).any(-1))
    assert abs(moved.mean() - probability.mean()) < 4 * moved.std() / n**0.5
    for now, there in zip(after.terms, target.terms(after.position), strict=True):
        np.testing.assert_allclose(now, there, rtol=1e-4, atol=1e-4)
    after, probability = run(start, jnp.array([1e30]))  # to infinity
    np.testing.assert_array_equal(after.position, start)
    assert (probability == 0).all()


@pytest.mark.slow
def test_bidirectional_monte_carlo_encloses_log_p():
    model, port = linear()
    for_data = jax.random.split(jax.random.fold_in(key(0), 0), 7)[0]
    x = port.simulate(jnp.zeros((100, exact.X_DIM)), key=for_data)["x"]
    truth = exact.log_evidence(model, torch.tensor(np.asarray(x)).double()).detach().numpy()
    settings = {"leapfrog_steps": 3, "adaptation": 50}
    good = bdmc(port, 100, temperatures=200, chains=8, **settings)
    assert abs(good.lower.values - truth).mean() < 0.2
    assert abs(good.lower.mean - truth.mean()) < 0.05
    assert abs(good.upper.mean - truth.mean()) < 0.05
    assert np.isnan(good.upper.errors).all()
    assert np.isfinite(good.lower.errors).all()


def conditional(c, x):
    with plate("data", len(x)):
        z = sample("z", dist.Normal(c, 1.0).to_event(1))
        sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


@pytest.mark.slow
def test_bidirectional_monte_carlo_given_conditions():
    port, c = Program(conditional, 1), np.linspace(-9, 9, 30, dtype=np.float32)[:, None]
    for_data = jax.random.split(jax.random.fold_in(key(0), 0), 7)[0]
    x = port.simulate(c, jnp.zeros((30, 1)), key=for_data)["x"]
    truth = dist.Normal(c, 1.25**0.5).log_prob(x)[:, 0]
    settings = {"leapfrog_steps": 3, "adaptation": 50}
    found = bdmc(port, (c, np.zeros((30, 1), np.float32)), temperatures=100, **settings)
    for bound in (found.lower, found.upper):
        assert abs(bound.values - truth).max() < 0.5
        assert abs(bound.mean - truth.mean()) < 0.1


def discrete(x):
    with plate("data", len(x)):
        y = sample("y", dist.Bernoulli(0.5))
        sample("x", dist.Normal(y, 1.0), obs=x[:, 0])


def shared(x):
    z = sample("z", dist.Normal(0.0, 1.0))
    with plate("data", len(x)):
        sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def masked_latent(x):
    with plate("data", len(x)):
        with numpyro.handlers.mask(mask=x[:, 0] < 2):
            z = sample("z", dist.Normal(0.0, 1.0))
        sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def no_latent(x):
    with plate("data", len(x)):
        sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (discrete, r"site 'y' should be continuous or marked infer=\{'enumerate': 'parallel'\}"),
        (shared, "site 'z' should lie in the data plate, but it belongs to all data"),
        (masked_latent, "site 'z' should not have a mask, had one"),
        (no_latent, "model should have a latent site that is not enumerated, had none"),
    ],
)
def test_what_cannot_be_annealed_is_refused(program, says):
    with pytest.raises(ValueError, match=says) as caught:
        log_likelihood(Program(program, 3), np.ones((2, 3), np.float32), method="ais")
    by_weights = program in (discrete, masked_latent, no_latent)
    assert str(caught.value).endswith(": use method='iw'") == by_weights
    with pytest.raises(ValueError, match=says) as caught:
        bdmc(Program(program, 3), 2)
    assert "method" not in str(caught.value)  # it has no such argument


def test_wrong_settings_are_named():
    _, port = linear()
    x = np.zeros((2, exact.X_DIM), np.float32)
    for name in ("chains", "temperatures", "leapfrog_steps"):
        says = f"{name} should be a whole number of at least 1, was 0"
        with pytest.raises(ValueError, match=says):
            log_likelihood(port, x, method="ais", **{name: 0})
        with pytest.raises(ValueError, match=says):
            bdmc(port, **{name: 0})
    with pytest.raises(ValueError, match="method should be iw or ais, was 'is'"):
        log_likelihood(port, x, method="is")
