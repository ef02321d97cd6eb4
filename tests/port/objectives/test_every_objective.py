"""What holds for every objective of the port, with functions of `numpyro.param`."""

import contextlib
import functools

import every_objective
import numpy as np
import pytest
import torch
from every_objective import (
    FOR_FIT_ALONE,
    LOSSES,
    OF_GUIDE,
    OF_MODEL,
    START,
    UNITS,
    N,
    data,
    every_loss,
    found,
)
from numpyro_every_objective_support import PORT, VARIANTS, make
from port_support import jax, jnp, key, numpyro
from pyro import poutine

from ppl_vae.parity import float64

dist = numpyro.distributions


def test_every_objective_is_in_the_table():
    assert set(PORT) - FOR_FIT_ALONE == {loss.make.func.__name__ for loss in LOSSES.values()}


class Pair(every_objective.Pair):
    """The same pair."""

    def model(self, x, *labels):
        prior, a, m = (numpyro.param(name, START[name]) for name in OF_MODEL)
        with self.data(x) as index:
            x = self.seen(x, index)
            y = self.beside(numpyro.sample("y", self.latent(prior)))
            with self.inner():
                z = numpyro.sample("z", self.normal(y, 1.0))
                numpyro.sample("x", self.normal(a * z + m * y, 1.0), obs=x)

    def guide(self, x, *labels):
        w, u, g, h, t = (numpyro.param(name, START[name]) for name in OF_GUIDE)
        with self.data(x) as index:
            x = self.seen(x, index)
            mean = {None: x, "plate": x.mean(0), "event": x.mean(-1)}[self.units]
            y = self.beside(numpyro.sample("y", self.latent(w * mean + u)))
            with self.inner():
                z = numpyro.sample("z", self.normal(h * x + g * y, jnp.exp(t)))
        self.drawn.append(tuple(z.shape))

    def data(self, x):
        n = x.shape[-1] if self.transposed(x) else len(x)
        size = {"whole": (n, n), "given": (2 * n, n), "drawn": (n, n // 2)}[self.batch]
        return numpyro.plate("data", size[0], subsample_size=size[1], dim=-1)

    def inner(self):
        if self.units == "plate":
            return numpyro.plate("units", UNITS, dim=-2)
        return contextlib.nullcontext()

    def latent(self, loc):
        if self.kind == "label":
            return dist.Categorical(logits=jnp.stack([jnp.zeros_like(loc), loc], -1))
        return dist.Bernoulli(logits=loc) if self.kind == "class" else dist.Normal(loc, 1.0)

    def normal(self, loc, scale):
        if self.units == "event":
            return dist.Normal(loc, scale * jnp.ones(UNITS)).to_event(1)
        return dist.Normal(loc, scale)


class Fixed(numpyro.primitives.Messenger):
    """Draws are made of the same numbers as those of `every_objective.Fixed`."""

    def __init__(self, units):
        super().__init__()
        self.table = every_objective.Fixed(units)

    def process_message(self, msg):
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        noise = jnp.asarray(self.table.numbers(msg["name"], fn.shape()).numpy())
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if hasattr(base, "from_noise"):
            msg["value"] = base.from_noise(noise)
        elif fn.support.is_discrete:
            msg["value"] = (noise > 0).astype(int)
        else:
            msg["value"] = fn.mean + jnp.sqrt(fn.variance) * noise


def kind_of(name):
    # NumPyro has no closed form of the KL divergence of two Bernoulli distributions.
    return "number" if name == "ELBO-closed-kl" else LOSSES[name].kinds[-1]


@pytest.mark.slow
@every_loss
def test_inner_plates_masks_and_scales_are_as_in_pyro(name):
    loss = LOSSES[name]
    # Where jax traces masks, whether two are the same is not known: a closed KL has none.
    whole = loss.labels or name == "ELBO-closed-kl"
    mask = True if whole else np.arange(N) < 4

    def around(of_mask, of_scale, program):
        if loss.batch == "whole":
            return program
        return of_scale(of_mask(program, mask=mask), scale=2.5)

    kind = kind_of(name)
    theirs = every_objective.Pair(kind, units="plate")
    in_pyro = functools.partial(around, masked_in_pyro, poutine.scale)
    expected = found(loss, theirs, data(loss, "plate"), in_pyro, nesting=2)
    with float64():
        pair = Pair(kind, units="plate")
        in_port = functools.partial(around, numpyro.handlers.mask, numpyro.handlers.scale)
        programs = in_port(pair.model), in_port(pair.guide)
        x = [part.numpy() for part in data(loss, "plate")]

        def of(values):
            with Fixed("plate"), numpyro.handlers.substitute(data=values):
                objective = make(loss, max_plate_nesting=2)
                return objective.loss_and_state(*programs, *x, key=key())[0]

        start = {name: jnp.asarray(value) for name, value in START.items()}
        value, grads = jax.jit(jax.value_and_grad(of))(start)
    np.testing.assert_allclose(value, expected[0].item(), rtol=1e-9)
    trained = [name for name in START if name in loss.trains]
    for parameter, grad in zip(trained, expected[1:], strict=True):
        np.testing.assert_allclose(grads[parameter], grad, rtol=1e-8, atol=1e-9)
        assert abs(grad) > 0


def masked_in_pyro(program, mask):
    return poutine.mask(program, mask=torch.tensor(mask))


NEEDS_FIT = {
    "GECO": "GECO should be trained by ppl_vae.numpyro.inference.fit",
    "ELBO-average": "baseline should be None in numpyro.infer.SVI.*ppl_vae.numpyro.inference.fit",
    "ELBO-network": "baseline should be None in numpyro.infer.SVI.*ppl_vae.numpyro.inference.fit",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in VARIANTS])
def test_svi_trains_functions_with_numpyro_param_on_minibatches(name):
    loss = LOSSES[name]
    x = [jnp.asarray(data(loss)[0].numpy(), jnp.float32)]
    x += [np.array([0, 1, -1, 1, -1, -1])] * loss.labels
    pair = Pair(kind_of(name), loss.batch)
    svi = numpyro.infer.SVI(pair.model, pair.guide, numpyro.optim.Adam(0.01), make(loss))
    state = svi.init(key(), *x)
    if name in NEEDS_FIT:
        with pytest.raises(ValueError, match=NEEDS_FIT[name]):
            svi.update(state, *x)
        return
    pair.drawn.clear()
    update = jax.jit(lambda state: svi.update(state, *x))
    moved = set()
    for _ in range(3):
        state, value = update(state)
        assert np.isfinite(value)
        moved |= {n for n, v in svi.get_params(state).items() if abs(v - START[n]) > 1e-4}
    assert sorted(moved) == sorted(loss.trains)
    assert pair.drawn[0][:-1] == ((loss.particles,) if loss.particles > 1 else ())
