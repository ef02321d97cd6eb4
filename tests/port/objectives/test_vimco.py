"""The port's VIMCO on the same draws as Pyro's."""

import numpy as np
import pyro
import pytest
import torch
from cases import CASES, pixels
from every_draw import Given
from port_support import jax, jnp, key, make_pair, numpyro
from toy import Toy

import ppl_vae.inference
from ppl_vae.numpyro.inference import IWAE, VIMCO
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.parity import float64

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}
K = 4
both_means = pytest.mark.parametrize("mean", ["geometric", "arithmetic"])


def given(guide, values):
    return numpyro.handlers.substitute(guide, data={n: v.numpy() for n, v in values.items()})


def assert_same(ours, grads, theirs, found):
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for name, grad in grads.items():
        np.testing.assert_allclose(found[name], grad, atol=1e-9, rtol=1e-9)
        assert abs(grad).sum() > 0


@both_means
@pytest.mark.parametrize("name", ["sbn", "sbn-categorical"])
def test_discrete_latents(name, mean):
    model, port = make_pair(CASE[name].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    with pyro.plate("particles", K, dim=-2):
        trace = pyro.poutine.trace(model.guide).get_trace(torch.tensor(x))
    values = {site: trace.nodes[site]["value"] for site in ("z_1", "z_2")}
    with Given(values):
        ours = ppl_vae.inference.VIMCO(K, mean).differentiable_loss(
            model.model, model.guide, torch.tensor(x)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(ours, weights), strict=True))
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            programs = this.model, given(this.guide, values)
            return VIMCO(K, mean).differentiable_loss(*programs, x, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    assert_same(ours, grads, theirs, found)


NAMES = ("pi", "m", "w", "u", "g", "s", "a", "h")
X, NOISE = np.array([0.2, -1.5]), np.random.default_rng(0).normal(size=(K, 2))


def mixed(p):
    """`Toy` without its distributions' names, z = loc + scale * noise."""

    def model(x):
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", dist.Categorical(logits=p["pi"]))
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(p["a"] * z + p["m"][y], 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", len(x)):
            logits = p["w"] * x[:, None] + p["u"]
            y = numpyro.sample("y", dist.Categorical(logits=logits))
            normal = dist.Normal(p["g"][y] + p["h"] * x, jnp.exp(p["s"][y]))
            z = normal.mean + jnp.sqrt(normal.variance) * NOISE
            with numpyro.handlers.substitute(data={"z": z}):
                numpyro.sample("z", normal)

    return model, guide


class Reparametrised(pyro.poutine.messenger.Messenger):
    """The same for Pyro's."""

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and msg["value"] is None:
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * torch.tensor(NOISE)


@both_means
def test_mixed_latents(mean):
    toy, x = Toy(3, marked=False), torch.tensor(X)
    y = {"y": torch.tensor([[0, 2], [1, 1], [1, 0], [2, 0]])}
    with Given(y), Reparametrised():
        ours = toy.loss(ppl_vae.inference.VIMCO(K, mean), x)()
    grads = dict(zip(NAMES, torch.autograd.grad(ours, toy.parameters), strict=True))
    with float64():

        def loss(p):
            model, guide = mixed(p)
            programs = model, given(guide, y)
            return VIMCO(K, mean).differentiable_loss(*programs, X, key=key())

        own = {name: jnp.asarray(getattr(toy, name).detach().numpy()) for name in NAMES}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    assert_same(ours, grads, theirs, found)


@both_means
@pytest.mark.parametrize("spread", [1.0, 1000.0])
def test_signals_of_weights_far_apart(spread, mean):
    log_w = spread * np.random.default_rng(0).normal(size=(5, 6))
    ours = ppl_vae.inference.VIMCO(5, mean)
    bound = torch.tensor(log_w).logsumexp(0) - np.log(5)
    expected = ours.signal(bound, torch.tensor(log_w))
    with float64():
        found = VIMCO(5, mean).signal(jnp.asarray(bound.numpy()), jnp.asarray(log_w))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_with_reparametrised_latents_alone_it_is_iwae():
    _, port = make_pair(CASE["vae"].model)
    loss = [
        jax.jit(lambda x, o=o: o.differentiable_loss(port.model, port.guide, x, key=key()))
        for o in (VIMCO(3), IWAE(3))
    ]
    np.testing.assert_allclose(*(f(*pixels(0)) for f in loss))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="k should be a whole number of at least 2, was 1"):
        VIMCO(1)
    with pytest.raises(ValueError, match="mean should be geometric or arithmetic, was 'h'"):
        VIMCO(2, "h")
