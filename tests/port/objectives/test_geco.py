"""The port's GECO: loss, gradients and states of Pyro's, resume, and what it refuses."""

import numpy as np
import port_support
import pyro
import pytest
import torch
from cases import CASES, pixels
from port_support import Noise, TorchNoise, jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
from ppl_vae.numpyro.inference import ELBO, GECO, fit, mean_loss
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.parity import float64

CASE = {case.name: case for case in CASES}
QUIET = {"progress": False, "device": "cpu"}
STATE = {"beta": 0.3, "reconstruction": 4.0, "reached": 1.0}


def different_noise(shape: tuple[int, ...]) -> np.ndarray:
    """Of a size of its own for every draw."""
    return 1.3 * np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 1},
        {"k": 3},
        {"k": 1, "inner": ("zeta",)},
        {"k": 4, "inner": ("zeta",), "update": "geco"},
        {"k": 4, "inner": ("zeta",), "tau": 3.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("tolerance", [2.0, 6.0])
def test_loss_gradients_and_state_are_those_of_pyro(settings, tolerance, monkeypatch):
    monkeypatch.setattr(port_support, "noise", different_noise)
    model, port = make_pair(CASE["vhp"].model)
    model.double()
    x = pixels(0)[0].astype(np.float64)
    ours = ppl_vae.inference.GECO(tolerance, **settings)
    ours = ours.with_state({name: torch.tensor(value) for name, value in STATE.items()})
    with TorchNoise():
        loss, state = ours.loss_and_state(model.model, model.guide, torch.tensor(x))
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, weights)
    with float64():
        other = GECO(tolerance, **settings)

        def loss_of(weights, start):
            this = with_parameters(port, weights)
            with Noise():
                started = other.with_state(start)
                return started.loss_and_state(this.model, this.guide, x, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        start = {name: jnp.float32(value) for name, value in STATE.items()}
        (theirs, their_state), found = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
            own, start
        )
    np.testing.assert_allclose(theirs, loss.item(), rtol=1e-7)
    for name, grad in zip(names, grads, strict=True):
        np.testing.assert_allclose(found[name], grad, rtol=1e-7, atol=1e-7)
        assert grad.any()
    assert their_state.keys() == state.keys()
    for name, value in state.items():
        assert their_state[name].dtype == jnp.float32
        np.testing.assert_allclose(their_state[name], value.item(), rtol=1e-5)
    assert state["beta"] != STATE["beta"]


@pytest.mark.parametrize("update", ["geco", "rewo"])
def test_the_states_are_those_of_pyro(update):
    def programs(backend):
        def model(values):
            with backend.plate("data", len(values)):
                backend.sample("z", backend.distributions.Normal(0.0, 1.0))
                backend.factor("x", -values)

        def the_prior(values):
            with backend.plate("data", len(values)):
                backend.sample("z", backend.distributions.Normal(0.0, 1.0))

        return model, the_prior

    settings = {"update": update, "start": 0.2, "rate": 0.02, "tau": 2.0, "decay": 0.5}
    ours = GECO(10.0, **settings)
    theirs = ppl_vae.inference.GECO(10.0, **settings)
    state, their_state = ours.state(), theirs.state()
    for value in (20.0, 14.0, 12.0, 4.0, 2.0, 9.0, 8.0, 30.0, 25.0, 3.0):
        batch = np.array([value - 1, value + 1], np.float32)
        model, guide = programs(numpyro)
        _, state = ours.with_state(state).loss_and_state(model, guide, jnp.array(batch), key=key())
        model, guide = programs(pyro)
        _, their_state = theirs.with_state(their_state).loss_and_state(
            model, guide, torch.tensor(batch)
        )
        for name, number in their_state.items():
            np.testing.assert_allclose(state[name], number.item(), rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_states(tmp_path):
    _, port = make_pair(CASE["vae"].model)
    settings = {"objective": GECO(10.0), "batch_size": 12, "lr": 1e-2, **QUIET}
    whole = fit(port, *pixels(0), epochs=3, **settings)
    fit(port, *pixels(0), epochs=1, out=tmp_path, **settings)
    rest = fit(port, *pixels(0), epochs=3, out=tmp_path, resume=True, **settings)
    for column in ("loss", "beta", "reconstruction", "reached"):
        assert np.array_equal(rest[column], whole[column])
    assert len(set(whole["beta"])) == 3
    for name, value in whole.model.state_dict().items():
        assert np.array_equal(value, rest.model.state_dict()[name])
        assert not np.array_equal(value, port.state_dict()[name])


@pytest.mark.slow
def test_measured_is_minus_the_bound():
    _, port = make_pair(CASE["vhp"].model)
    with Noise():
        bounds = [mean_loss(port, *pixels(0), objective) for objective in (ELBO(), GECO(3.0))]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6)


@pytest.mark.slow
def test_what_it_refuses():
    _, port = make_pair(CASE["vhp"].model)
    (x,) = pixels(0)
    svi = numpyro.infer.SVI(port.model, port.guide, numpyro.optim.Adam(1e-2), GECO(3.0))
    with pytest.raises(ValueError, match=r"GECO should be trained by ppl_vae\.numpyro"):
        svi.update(svi.init(key(), x), x)
    for make, says in (
        (lambda: GECO(float("inf")), "tolerance should be a finite number, was inf"),
        (lambda: GECO(3.0, update="sgd"), "update should be one of"),
        (lambda: GECO(3.0, inner="zeta"), "inner should be a sequence of names"),
        (lambda: GECO(3.0, rate=0.0), "rate should be a positive number, was 0.0"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    for case, inner, says in (
        ("vhp", ("w",), r"inner .*\['z', 'zeta'\], had 'w'"),
        ("hierarchical-skip", ("z_3",), "inner .*on which 'x' depends"),
        ("hierarchical", ("z_1",), "inner .*on which '(x|z_2)' depends"),
        ("m2-unlabelled", (), "site 'y' should be reparametrised"),
    ):
        _, port = make_pair(CASE[case].model)
        loss, data = GECO(3.0, inner=inner, k=2).differentiable_loss, CASE[case].data(0)
        with pytest.raises(ValueError, match=says):
            jax.eval_shape(lambda key: loss(port.model, port.guide, *data, key=key), key())  # noqa: B023
