"""The port's PIWAE: on the same draws as Pyro's, and against the port's IWAE and MIWAE."""

import numpy as np
import port_support
import pytest
import torch
from cases import CASES, pixels
from port_support import Noise, TorchNoise, jax, jnp, key, make_pair, numpyro

import ppl_vae.inference.objectives.piwae
from ppl_vae.numpyro.inference import IWAE, MIWAE
from ppl_vae.numpyro.inference.objectives.piwae import PIWAE
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.parity import float64

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}


def of_particles(shape):
    return 1.3 * np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape)


def test_the_loss_and_its_gradients_are_those_of_pyro(monkeypatch):
    monkeypatch.setattr(port_support, "noise", of_particles)
    model, port = make_pair(CASE["hierarchical"].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    with TorchNoise():
        ours = ppl_vae.inference.objectives.piwae.PIWAE(2, 3).differentiable_loss(
            model.model, model.guide, torch.tensor(x)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(ours, weights)
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            with Noise():
                return PIWAE(2, 3).differentiable_loss(this.model, this.guide, x, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for parameter, grad in zip(names, grads, strict=True):
        np.testing.assert_allclose(found[parameter], grad, atol=1e-9, rtol=1e-9)
        assert abs(grad).sum() > 0


def model(x):
    pi, m, a = (numpyro.param(name) for name in ("pi", "m", "a"))
    with numpyro.plate("data", len(x)):
        y = numpyro.sample("y", dist.Categorical(logits=pi))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(a * z + m[y], 1.0), obs=x)


def guide(x):
    w, g, h, s = (numpyro.param(name) for name in ("w", "g", "h", "s"))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(g + h * x, jnp.exp(s)))
        numpyro.sample("y", dist.Categorical(logits=w * z[..., None]))


@pytest.mark.slow
def test_in_every_draw_it_is_iwae_for_the_model_and_miwae_for_the_guide():
    """Latents are mixed, and the class depends on the path of the number."""
    rng = np.random.default_rng(0)
    shapes = {"pi": 3, "m": 3, "a": (), "w": 3, "g": (), "h": (), "s": ()}
    of_model, of_guide = ("pi", "m", "a"), ("w", "g", "h", "s")
    with float64():
        weights = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
        x = jnp.asarray(rng.normal(size=5))

        def found(weights):
            def of(objective):
                loss = lambda v: objective.loss(key(), v, model, guide, x)  # noqa: E731
                value, grads = jax.value_and_grad(loss)(weights)
                return {"value": value, **grads}

            return [of(objective) for objective in (PIWAE(2, 3), IWAE(6), MIWAE(2, 3))]

        ours, one, several = jax.jit(found)(weights)
        for name in ("value", *of_model):
            np.testing.assert_allclose(ours[name], one[name], rtol=1e-9)
            assert abs(ours[name] - several[name]).max() > 1e-3
        for name in of_guide:
            np.testing.assert_allclose(ours[name], several[name], rtol=1e-9)
            assert abs(ours[name] - one[name]).max() > 1e-3


@pytest.mark.slow
def test_svi_trains_both_programs():
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0**0.5, size=200), jnp.float32)

    def model(x):
        with numpyro.plate("data", 400, subsample_size=200):
            z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", 400, subsample_size=200):
            loc = x * numpyro.param("slope", 0.0) + numpyro.param("shift", 0.0)
            numpyro.sample("z", dist.Normal(loc, 0.5**0.5))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.03), PIWAE(2, 3))
    found = svi.run(key(), 250, x, progress_bar=False).params
    np.testing.assert_allclose(found["loc"], x.mean(), atol=0.1)
    np.testing.assert_allclose(found["slope"], 0.5, atol=0.06)
    np.testing.assert_allclose(found["shift"], found["loc"] / 2, atol=0.1)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="m should be a whole number of at least 1, was 0"):
        PIWAE(0, 2)
    with pytest.raises(ValueError, match="k should be a whole number of at least 1, was 0"):
        PIWAE(2, 0)
