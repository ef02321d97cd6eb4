"""The port's TVO on the same draws as Pyro's."""

import numpy as np
import pyro
import pytest
import torch
from cases import CASES, pixels
from every_draw import Given
from port_support import jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
from ppl_vae.numpyro.inference import TVO
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.parity import float64

CASE = {case.name: case for case in CASES}
K = 4
ARGUMENTS = [
    {"partitions": 3},
    {"partitions": (0.0, 0.2, 0.7, 1.0)},
    {"partitions": 2, "bound": "upper"},
]


@pytest.mark.parametrize("name", ["sbn", "hierarchical"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_the_loss_and_its_gradients_are_those_of_pyro(name, arguments):
    """Draws are given as constants, which is what both make of them."""
    model, port = make_pair(CASE[name].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    with pyro.plate("particles", K, dim=-2), torch.no_grad():
        trace = pyro.poutine.trace(model.guide).get_trace(torch.tensor(x))
    values = {site: trace.nodes[site]["value"] for site in ("z_1", "z_2")}
    with Given(values):
        ours = ppl_vae.inference.TVO(K, **arguments).differentiable_loss(
            model.model, model.guide, torch.tensor(x)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(ours, weights, allow_unused=True)
    given = {site: value.numpy() for site, value in values.items()}
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            guide = numpyro.handlers.substitute(this.guide, data=given)
            return TVO(K, **arguments).differentiable_loss(this.model, guide, x, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for parameter, grad in zip(names, grads, strict=True):
        expected = 0.0 if grad is None else grad
        np.testing.assert_allclose(found[parameter], expected, atol=1e-9, rtol=1e-9)
        guided = parameter.startswith("encoders") or arguments.get("bound") != "upper"
        assert guided == bool(np.any(np.asarray(expected)))


@pytest.mark.slow
def test_no_gradient_passes_through_the_draws():
    """Those that are drawn by the port itself, against the same as constants."""
    _, port = make_pair(CASE["hierarchical"].model)
    (x,) = pixels(0)
    objective = TVO(3)

    def loss(weights, stop):
        this = with_parameters(port, weights)
        with Constant() if stop else numpyro.handlers.block(hide_fn=lambda msg: False):
            return objective.differentiable_loss(this.model, this.guide, x, key=key())

    own = {name: jnp.asarray(value) for name, value in port.state_dict().items()}
    ours, stopped = (jax.jit(jax.grad(lambda w, s=s: loss(w, s)))(own) for s in (False, True))
    for name, grad in ours.items():
        np.testing.assert_allclose(grad, stopped[name], rtol=1e-5, atol=1e-6)
        assert np.any(np.asarray(grad))


class Constant(numpyro.primitives.Messenger):
    """Cuts every draw from its parameters."""

    def postprocess_message(self, msg):
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["value"] = jax.lax.stop_gradient(msg["value"])


def test_wrong_arguments_are_named():
    for make, says in (
        (lambda: TVO(1), "k should be a whole number of at least 2, was 1"),
        (lambda: TVO(2, (0.0, 0.5)), "partitions should be .* from 0 to 1, was"),
        (lambda: TVO(2, bound="both"), "bound should be lower or upper, was 'both'"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
