"""The port's wake-sleep: on the same draws and dreams as Pyro's, and by sums over all dreams."""

import numpy as np
import pyro
import pytest
import torch
from cases import CASES, pixels
from port_support import jax, jnp, key, make_pair, numpyro
from wake_sleep_support import Dreaming as TorchDreaming

import ppl_vae.inference.objectives.wake_sleep
from ppl_vae.numpyro.inference import IWAE, fit
from ppl_vae.numpyro.inference.objectives.wake_sleep import RWS, WakeSleep
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.numpyro.models.networks.layers import training
from ppl_vae.parity import float64

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}
K = 4
PHASES = [("sbn", (True, False)), ("sbn", (True, True)), ("hierarchical", (True, True))]


class Dreaming(numpyro.primitives.Messenger):
    """Gives latent sites values of their own in the wake and in the sleep phase."""

    def __init__(self, awake, asleep):
        super().__init__()
        self.awake, self.asleep = dict(awake), asleep

    def process_message(self, msg):
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        if msg["name"] in self.asleep:
            msg["value"] = jnp.asarray(self.awake.pop(msg["name"], self.asleep[msg["name"]]))


@pytest.mark.parametrize(("name", "phases"), PHASES)
def test_the_loss_and_its_gradients_are_those_of_pyro(name, phases):
    """Draws are given as constants, which is what both make of them."""
    model, port = make_pair(CASE[name].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    with pyro.plate("particles", K, dim=-2), torch.no_grad():
        trace = pyro.poutine.trace(model.guide).get_trace(torch.tensor(x))
    awake = {site: trace.nodes[site]["value"] for site in ("z_1", "z_2")}
    asleep = model.simulate(torch.tensor(x))
    with TorchDreaming(awake, asleep):
        ours = ppl_vae.inference.objectives.wake_sleep.RWS(K, *phases).differentiable_loss(
            model.model, model.guide, torch.tensor(x)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(ours, weights)
    given = [{site: v.numpy() for site, v in values.items()} for values in (awake, asleep)]
    with float64():

        def loss(weights, x):
            this = with_parameters(port, weights)
            with Dreaming(*given):
                run = RWS(K, *phases).differentiable_loss
                return run(this.model, this.guide, x, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own, x)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for parameter, grad in zip(names, grads, strict=True):
        np.testing.assert_allclose(found[parameter], grad, atol=1e-9, rtol=1e-9)
        assert abs(grad).sum() > 0


def classes(probs, size=None):
    """A class y ~ probs and x ~ Bernoulli(0.2, 0.5 or 0.9); in q a logit for each (x, y)."""

    def model(x):
        with numpyro.plate("data", size or len(x), subsample_size=len(x)):
            y = numpyro.sample("y", dist.Categorical(probs))
            numpyro.sample("x", dist.Bernoulli(jnp.array([0.2, 0.5, 0.9])[y]), obs=x)

    def guide(x):
        logits = numpyro.param("logits", jnp.zeros((2, 3)))
        with numpyro.plate("data", size or len(x), subsample_size=len(x)):
            numpyro.sample("y", dist.Categorical(logits=logits[x.astype(int)]))

    return model, guide


def test_dreams_of_its_own_give_the_expected_gradient_and_the_scale_of_the_data():
    """-E_p dlog q(y | x) for the logits of each x: p(x) (softmax - p(y | x)) for each datum."""
    prior = np.array([0.5, 0.2, 0.3])
    joint = prior * np.stack([1 - np.array([0.2, 0.5, 0.9]), np.array([0.2, 0.5, 0.9])])
    logits = np.array([[0.4, -0.3, 0.1], [-0.5, 0.2, 0.7]])
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = 3 * (joint.sum(1, keepdims=True) * q - joint)
    n = 100_000
    model, guide = classes(jnp.asarray(prior), 3 * n)

    def loss(logits, x):
        return WakeSleep().loss(key(), {"logits": logits}, model, guide, x)

    grad = jax.jit(jax.grad(loss))(jnp.asarray(logits, jnp.float32), jnp.zeros(n, jnp.int32))
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(grad / n, expected, atol=4 * 3 / n**0.5)


def numbers(slope):
    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    return model


def guide(x):
    at = numpyro.param("slope", 0.4) * x
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(at, numpyro.param("scale", 0.8)))


def test_no_gradient_passes_through_draws_and_dreams():
    x = np.array([0.3, -1.2], np.float32)

    def loss(v, objective):
        return objective.loss(key(), v, numbers(v["of_model"]), guide, x)

    class Constant(numpyro.primitives.Messenger):
        def postprocess_message(self, msg):
            if msg["type"] == "sample" and not msg["is_observed"]:
                msg["value"] = jax.lax.stop_gradient(msg["value"])

    def cut(v, objective):
        with Constant():
            return loss(v, objective)

    @jax.jit
    def found(v):
        awake, _ = jax.random.split(key())
        iwae = IWAE(3).loss(awake, v, numbers(v["of_model"]), guide, x)
        return iwae, [jax.value_and_grad(f)(v, RWS(3, True, True)) for f in (loss, cut)]

    iwae, (ours, expected) = found({"of_model": 0.7, "slope": 0.4, "scale": 0.8})
    np.testing.assert_allclose(ours[0], iwae, rtol=1e-6)
    for name, grad in ours[1].items():
        np.testing.assert_allclose(grad, expected[1][name], rtol=1e-5)
        assert abs(grad) > 1e-3


def test_the_guide_is_given_what_the_model_simulates():
    given = []

    def model(c, x, *, y):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(c, 1.0))
            numpyro.sample("y", dist.Categorical(jnp.array([0.1, 0.8, 0.1])), obs=y)
            numpyro.sample("x", dist.Bernoulli(logits=5 + z), obs=x)

    def guide(c, x, *, y):
        given.append((c, x, y))
        with numpyro.plate("data", len(x)):
            logits = numpyro.param("b") * jnp.arange(3.0)
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)
            numpyro.sample("z", dist.Normal(x + y + c, 1.0))

    @jax.jit
    def run(c, x, y):
        loss = lambda b: RWS(2, True, True).loss(key(), {"b": b}, model, guide, c, x, y=y)  # noqa: E731
        grad = jax.grad(loss)(0.3)
        *_, (wake_c, wake_x, wake_y), (sleep_c, sleep_x, sleep_y) = given
        assert wake_c is c
        assert wake_x is x
        assert wake_y is y
        assert sleep_c is c
        assert (sleep_x.dtype, sleep_y.dtype) == (x.dtype, y.dtype)
        return sleep_x, sleep_y, grad

    x, y, grad = run(jnp.zeros(50), jnp.zeros(50), jnp.zeros(50, jnp.int8))
    assert x.mean() > 0.8
    assert (y == 1).mean() > 0.6
    assert grad == 0  # y is no latent of the guide


@pytest.mark.slow
def test_fit_trains_by_dreams_given_conditions():
    _, port = make_pair(CASE["cvae"].model)
    data = CASE["cvae"].data(0)
    found = fit(port, data, WakeSleep(), epochs=1, batch_size=12, lr=1e-2, progress=False)
    before, after = port.state_dict(), found.model.state_dict()
    assert all((before[name] != after[name]).any() for name in before)
    assert np.isfinite(found.rows[0]["loss"])


def test_running_statistics_are_those_of_the_wake_phase():
    _, port = make_pair(CASE["hierarchical-norm"].model)
    first = jax.random.split(key())[0]

    def state(objective, key):
        run = objective.loss_with_mutable_state
        return jax.jit(lambda x: run(key, {}, port.model, port.guide, x)["mutable_state"])

    with training():
        states = [state(RWS(2, True, True), key()), state(IWAE(2), first)]
        states = [run(*pixels(0)) for run in states]
    assert len(states[0]) > 1
    for name, held in states[0].items():
        assert not np.array_equal(held["value"], port.state_dict()[name])
        np.testing.assert_allclose(held["value"], states[1][name]["value"], rtol=1e-6, atol=1e-7)


def test_svi_trains_both_programs():
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0**0.5, size=200), jnp.float32)

    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = x * numpyro.param("slope", 0.0) + numpyro.param("shift", 0.0)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, 0.5**0.5))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.03), RWS(5, True, True))
    found = svi.run(key(), 250, x, progress_bar=False).params
    np.testing.assert_allclose(found["loc"], x.mean(), atol=0.2)
    np.testing.assert_allclose(found["slope"], 0.5, atol=0.1)
    np.testing.assert_allclose(found["shift"], found["loc"] / 2, atol=0.15)


def test_what_cannot_be_simulated_is_refused():
    x = jnp.array([0.3, -1.2])

    def computed(x):
        numbers(0.5)(x + 1)

    def model_of_two(x, c):
        numbers(0.5)(x)

    def guide_of_two(x, c):
        guide(x)

    def alone(x):
        guide(x)
        with numpyro.plate("data", len(x)):
            numpyro.sample("a", dist.Normal(x, 1.0), infer={"is_auxiliary": True})

    def refuse(says, objective, p, q, given):
        with pytest.raises(ValueError, match=says):  # where it is traced, before it is compiled
            jax.eval_shape(lambda x: objective.loss(key(), {}, p, q, *given(x)), x)

    refused = [
        ("argument as it is.* a value computed", computed, guide, lambda x: [x]),
        ("one that is used twice", model_of_two, guide_of_two, lambda x: [x, x]),
        ("'a' should be drawn by the model", numbers(0.5), alone, lambda x: [x]),
    ]
    for says, p, q, given in refused:
        jax.eval_shape(lambda x, p=p, q=q, g=given: RWS(2).loss(key(), {}, p, q, *g(x)), x)
        refuse(says, WakeSleep(), p, q, given)


def test_wrong_arguments_are_named():
    for arguments, says in (
        ((1,), "k should be at least 2 with wake_phi, was 1"),
        ((2, False, False), "wake_phi or sleep_phi should be True"),
    ):
        with pytest.raises(ValueError, match=says):
            RWS(*arguments)
