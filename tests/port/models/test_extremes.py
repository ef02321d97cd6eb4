"""Objectives of the port at the ends of what is legal: values and gradients are finite, and right.

To compile takes most of the time: every objective is compiled once, for one of its pairs.
"""

import contextlib
import functools
import math

import linear_gaussian
import numpy as np
import pytest
from every_objective import LOSSES
from extremes import (
    BOUNDS,
    ENDS,
    PAIRS,
    arrays,
    examples,
    extremes,
    log_weights,
    pairs_of,
    signals,
    tolerance,
)
from hypothesis import given
from hypothesis import strategies as st
from numpyro_every_objective_support import VARIANTS, make
from port_support import jax, jnp, key, numpyro

import ppl_vae.numpyro.inference
import ppl_vae.numpyro.models
from ppl_vae.numpyro.inference import VIMCO, log_likelihood
from ppl_vae.numpyro.inference.objectives.parts.kl import divergence
from ppl_vae.numpyro.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.numpyro.models import RankOneNormalNet
from ppl_vae.numpyro.models.base import parameters, with_parameters
from ppl_vae.numpyro.models.distributions.normal import LogVarNormal
from ppl_vae.parity import float64

dist = numpyro.distributions
NAMES = [name for name in LOSSES if name not in VARIANTS | {"TVO-upper"}]
COMPILED = {}


def compiled(name, objective, pair):
    """The loss, state and gradients by the weights of a pair, which are returned too."""
    if name not in COMPILED:
        model = PAIRS[pair].model.make(ppl_vae.numpyro.models, key=key())

        def loss(weights, data):
            own = with_parameters(model, weights["model"])
            this = objective.with_network_weights(weights["objective"])
            return this.loss_and_state(own.model, own.guide, *data, key=key())

        of_objective = {n: jnp.asarray(v, "f") for n, v in objective.network_weights().items()}
        COMPILED[name] = (
            jax.jit(jax.value_and_grad(loss, has_aux=True)),
            {"model": parameters(model), "objective": of_objective},
        )
    return COMPILED[name]


def assert_finite(name, objective, pair, drawn, row):
    step, weights = compiled(name, objective, pair)
    shapes = {parameter: value.shape for parameter, value in weights["model"].items()}
    new, data = drawn.draw(extremes(shapes, real=PAIRS[pair].real, name=row))
    if LOSSES[row].labels:  # a compiled step has those that are labelled first
        data = data[0], np.array([abs(data[1][0]), -1])
    given_weights = {**weights, "model": {n: jnp.asarray(value) for n, value in new.items()}}
    (loss, state), grads = step(given_weights, tuple(data))
    found = {"loss": loss, **state, **grads["model"], **grads["objective"]}
    bad = [parameter for parameter, value in found.items() if not np.isfinite(value).all()]
    assert not bad, (pair, new, data)


def settings_of(row):
    return {"labelled_first": 1} if LOSSES[row].labels else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@examples(8)
@given(st.data())
def test_loss_and_gradients_are_finite(name, drawn):
    pairs = pairs_of(name)
    # Log weights of 1e12 and more, of which two roundings of one sum are far apart.
    large = name in ("IWAE", "PIWAE", "DReG", "CUBO", "TVO", "RWS-asleep")
    pair = "vae-normal" if large else pairs[NAMES.index(name) % len(pairs)]
    assert_finite(name, make(LOSSES[name], **settings_of(name)), pair, drawn, name)


AT_ENDS = [end for end in ENDS if end[2].get("temperature", 1e6) != 1e6 or end[1] == "IWAE"]


@pytest.mark.parametrize(("name", "cls", "arguments"), AT_ENDS)
@examples(5)
@given(st.data())
def test_arguments_at_their_ends(name, cls, arguments, drawn):
    objective = getattr(ppl_vae.numpyro.inference, cls)(**arguments, **settings_of(name))
    assert_finite(f"{cls} {arguments}", objective, pairs_of(name)[0], drawn, name)


K = 100
OF_WEIGHTS = [name for name, bound in BOUNDS.items() if bound.cls != "ELBO"]


@functools.cache
def of_table(name):
    """Loss of K log weights and its gradient, compiled."""
    bound = BOUNDS[name]
    objective = getattr(ppl_vae.numpyro.inference, bound.cls)(*bound.arguments(K))

    def loss(log_w):
        if isinstance(objective, MultiSample):
            return -objective.bound(log_w.reshape(objective.groups, objective.k, -1)).mean(0).sum()
        return objective.value(log_w).sum()

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("name", OF_WEIGHTS)
@examples(15)
@given(log_weights(at_least=K, at_most=K))
def test_bounds_of_any_log_weights_are_those_of_double_precision(name, log_w):
    bound, exact = BOUNDS[name], log_w.astype(float)
    loss, grad = of_table(name)(log_w)
    assert loss == pytest.approx(
        bound.sign * bound.value(exact).sum(), rel=3e-6, abs=tolerance(log_w)
    )
    assert np.isfinite(grad).all()
    if bound.cls in ("IWAE", "MIWAE", "CIWAE", "Renyi") and bound.gradient is not None:
        np.testing.assert_allclose(grad, -bound.gradient(exact), atol=tolerance(log_w))


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
@examples(20)
@given(log_weights(at_least=20, at_most=20))
def test_signals_of_vimco_are_those_of_double_precision(mean, log_w):
    objective, numbers = VIMCO(20, mean), jnp.asarray(log_w)
    found = objective.signal(objective.bound(numbers), numbers)
    exact = signals(log_w.astype(float), mean)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=10 * tolerance(log_w))


@jax.jit
def of_logit(logit, x):
    return jax.value_and_grad(
        lambda v: dist.Bernoulli(logits=v, validate_args=False).log_prob(x).sum()
    )(logit)


@examples(40)
@given(arrays((1,), -1e4, 1e4).filter(all), st.sampled_from((0.0, 0.25, 1.0)))
def test_pixels_of_large_logits(logit, x):
    log_p, grad = of_logit(logit, x)
    exact = x * -np.logaddexp(0, -float(logit[0])) - (1 - x) * np.logaddexp(0, float(logit[0]))
    assert log_p == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert grad[0] == pytest.approx(x - 1 / (1 + math.exp(min(700, -logit[0]))), abs=1e-6)


@jax.jit
def of_normal(loc, log_var, value):
    return jax.value_and_grad(lambda *v: LogVarNormal(*v).log_prob(value).sum(), (0, 1))(
        loc, log_var
    )


@examples(60)
@given(arrays((1,), -80.0, 80.0), arrays((1,), -1e3, 1e3))
def test_normals_of_any_scale(log_var, away):
    precision = math.exp(-float(log_var[0]))
    square = float(away[0]) ** 2 * precision
    log_p, grads = of_normal(np.zeros(1, np.float32), log_var, away)
    if square > 3e38:  # no number of single precision is that large
        assert log_p < -1e38
        return
    exact = -0.5 * (square + float(log_var[0]) + math.log(2 * math.pi))
    expected = exact, away[0] * precision, 0.5 * (square - 1)
    assert [log_p.item(), *(grad.item() for grad in grads)] == pytest.approx(
        expected, rel=1e-4, abs=1e-4
    )


@jax.jit
def of_divergence(log_var, loc):
    def kl(log_var, loc):
        q, p = (LogVarNormal(loc[i], log_var[i]) for i in range(2))
        return divergence("z", q, p)

    return jax.value_and_grad(kl, (0, 1))(log_var, loc)


@examples(40)
@given(arrays((2,), -80.0, 80.0), arrays((2,), -1e3, 1e3))
def test_divergence_of_normals_of_any_scales(log_var, loc):
    (a, b), (m, n) = log_var.astype(float), loc.astype(float)
    exact = 0.5 * (math.exp(a - b) + (m - n) ** 2 * math.exp(-b) - 1 - a + b)
    kl, grads = of_divergence(log_var, loc)
    if exact > 1.5e38:
        assert kl > 1e38
        return
    assert kl == pytest.approx(exact, rel=1e-4, abs=1e-4)
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("log_precision", [-1e4, 1e4])
def test_a_precision_beyond_single_precision_is_cut(log_precision):
    net = RankOneNormalNet(2, 2, (), key=key())
    weights = parameters(net)
    bias = jnp.full_like(weights["log_precision.bias"], log_precision)

    def loss(weights):
        q = with_parameters(net, weights)(jnp.ones(2))
        return q.log_prob(q.sample(key())) + q.entropy()

    value, grads = jax.jit(jax.value_and_grad(loss))({**weights, "log_precision.bias": bias})
    assert all(np.isfinite(part).all() for part in (value, *grads.values()))


@pytest.mark.slow
def test_log_likelihood_of_many_draws_in_pieces():
    theirs = linear_gaussian.conjugate(exact=True)
    x = 60 * linear_gaussian.data()
    exact = linear_gaussian.log_evidence(theirs, x).detach().numpy()
    assert exact.max() < -500
    room = ppl_vae.numpyro.models
    decoder = room.DiagNormalNet(linear_gaussian.Z_DIM, linear_gaussian.X_DIM, (), key=key())
    sizes = linear_gaussian.X_DIM, linear_gaussian.Z_DIM, ()
    model = room.VAE(*sizes, decoder=decoder, key=key())
    weights = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    for kind, tolerated in ((np.float64, 1e-8), (np.float32, 1e-4)):
        with float64() if kind == np.float64 else contextlib.nullcontext():
            own = {name: jnp.asarray(value, kind) for name, value in weights.items()}
            data = x.numpy().astype(kind)
            found = log_likelihood(with_parameters(model, own), data, k=100_000, particles=8000)
        np.testing.assert_allclose(found.values, exact, rtol=tolerated)
