"""The port's masked data beside a class that the model sums over: as Pyro's, by hand."""

from contextlib import nullcontext

import numpy as np
import pytest
from masked_classes_support import KINDS, OBJECTIVES, SEEN, X, by_hand, noise, parameters
from port_support import jax, jnp, key, numpyro

import ppl_vae.numpyro.inference as inference
from ppl_vae.parity import float64

dist, mask = numpyro.distributions, numpyro.handlers.mask
KEEP = SEEN.numpy()


class Given(numpyro.primitives.Messenger):
    """Draws are mean + stddev * noise."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def process_message(self, msg):
        if msg["name"] in ("z", "x_unobserved") and msg["value"] is None:
            numbers = jnp.asarray(noise(msg["name"], self.k))
            msg["value"] = msg["fn"].mean + jnp.sqrt(msg["fn"].variance) * numbers


def programs(w, kind):
    def model(x):
        with numpyro.plate("data", len(x)):
            of_y = dist.Categorical(logits=w["pi"])
            y = numpyro.sample("y", of_y, infer={"enumerate": "parallel"})
            z = numpyro.sample("z", dist.Normal(w["m"][y], 1.0))
            of_x = dist.Normal(w["a"] * z + w["b"][y], 1.0)
            if kind == "obs_mask":
                numpyro.sample("x", of_x, obs=x, obs_mask=KEEP)
            else:
                with mask(mask=KEEP) if kind == "x" else nullcontext():
                    numpyro.sample("x", of_x, obs=x)

    def guide(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(w["g"] + w["h"] * x, jnp.exp(w["s"])))
            if kind == "obs_mask":
                with mask(mask=~KEEP):
                    numpyro.sample("x_unobserved", dist.Normal(w["c"] * jnp.ones(len(x)), 1.0))

    if kind == "both":
        return mask(model, mask=KEEP), mask(guide, mask=KEEP)
    return model, guide


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_by_hand(name, kind):
    objective = getattr(inference, name)(*OBJECTIVES[name])
    value, expected = by_hand(name, OBJECTIVES[name], kind)
    with float64():
        x = jnp.asarray(X)

        def loss(w):
            with Given(objective.num_particles):
                return objective.differentiable_loss(*programs(w, kind), x, key=key())

        w = {parameter: jnp.asarray(v.detach()) for parameter, v in parameters().items()}
        found, grads = jax.value_and_grad(loss)(w)
    np.testing.assert_allclose(found, value, rtol=1e-10)
    for parameter, grad in grads.items():
        np.testing.assert_allclose(grad, expected[parameter], atol=1e-9, err_msg=parameter)


@pytest.mark.slow
def test_a_mask_of_the_model_alone_is_refused():
    with float64():
        w = {parameter: jnp.asarray(v.detach()) for parameter, v in parameters().items()}
        (model, _), (_, guide) = programs(w, "both"), programs(w, "x")
        says = "all sites should have one mask where one that is summed"
        for name, arguments in OBJECTIVES.items():
            objective = getattr(inference, name)(*arguments)
            with pytest.raises(ValueError, match=says):
                objective.differentiable_loss(model, guide, jnp.asarray(X), key=key())
