"""Batch normalisation in the port: Pyro's numbers, and how running statistics go through a run."""

import numpy as np
import port_support
import pytest
import torch
from cases import Part, labelled, partly_labelled, pixels
from port_support import Noise, TorchNoise, jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
import ppl_vae.models
import ppl_vae.numpyro.inference
import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import ELBO, SemiSupervised, fit, log_likelihood, mean_loss
from ppl_vae.numpyro.models.base import buffers, parameters, with_parameters
from ppl_vae.numpyro.models.networks.layers import training
from ppl_vae.parity import float64
from ppl_vae.shared.io import safetensors_file

DIM = 3
QUIET = {"progress": False, "device": "cpu"}
NET = Part(
    "CategoricalNet",
    {"in_dims": 6, "n_classes": 3, "hidden": (4,), "activation": "tanh", "batch_norm": True},
)
CLASSIFIER = Part("Classifier", {"x_dim": 6, "n_classes": 3, "classifier": NET})
M2 = Part("M2", {"x_dim": 6, "n_classes": 3, "z_dim": 2, "hidden": (5,), "classifier": NET})
ONE_LAYER = {"x_dim": 6, "z_dims": (2,), "hidden": ((3,),), "batch_norm": True}
HIERARCHICAL = Part("HierarchicalVAE", ONE_LAYER)
LADDER = Part("LadderVAE", {"x_dim": 6, "z_dims": (2, 1), "hidden": ((3,), (2,))})
FIRST = "encoders.0.trunk.norms.0.running_mean"


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def close(a, b, tolerance):
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol=tolerance, atol=tolerance, err_msg=name)


def values(module):
    return {name: np.asarray(value) for name, value in buffers(module).items()}


@pytest.mark.parametrize("leading", [(7,), (4, 7), (2, 4, 7)], ids=str)
def test_values_gradients_and_running_statistics_are_pyros(leading):
    rng = np.random.default_rng(0)
    weights = {"weight": rng.normal(size=DIM), "bias": rng.normal(size=DIM)}
    ours = ppl_vae.models.BatchNorm(DIM).double()
    ours.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    with float64():
        weights = {name: jnp.asarray(value) for name, value in weights.items()}
        theirs = with_parameters(ports.BatchNorm(DIM), weights)
        held = {name: {"value": value} for name, value in buffers(theirs).items()}
        for now in (True, True, False):
            x = 5.0 + 3.0 * rng.normal(size=(*leading, DIM))
            weight = np.cos(np.arange(x.size)).reshape(x.shape)

            def total(weights, x, held, weight=weight):
                y = with_parameters(theirs, {**weights, **held})(x)
                return (y * weight).sum(), y

            in_torch = torch.tensor(x, requires_grad=True)
            y = ours.train(now)(in_torch)
            leaves = [ours.weight, ours.bias, in_torch]
            found = torch.autograd.grad((y * torch.tensor(weight)).sum(), leaves)
            if now:
                with training():
                    gradient, out = jax.grad(total, (0, 1), has_aux=True)(weights, x, held)
            else:
                gradient, out = jax.grad(total, (0, 1), has_aux=True)(weights, x, held)
            expected = [y, *found]
            actual = [out, gradient[0]["weight"], gradient[0]["bias"], gradient[1]]
            for a, b in zip(actual, expected, strict=True):
                np.testing.assert_allclose(a, b.detach(), rtol=1e-9, atol=1e-9)
            moved = {name: held[name]["value"] for name in held}
            close({name: ours.state_dict()[name].numpy() for name in moved}, moved, 1e-9)


def test_one_value_has_no_variance():
    says = "batch should hold at least 2 values of each feature for .*, held 1: .* batch_size"
    with training(), pytest.raises(ValueError, match=says):
        ports.BatchNorm(DIM)(jnp.ones((1, DIM)))
    _, port = make_pair(CLASSIFIER)
    with pytest.raises(ValueError, match=says):
        fit(port, labelled(0), epochs=1, batch_size=23, **QUIET)


def test_outside_a_program_nothing_moves():
    _, port = make_pair(CLASSIFIER)
    before = port.state_dict()
    (x, _) = labelled(0)
    with training():
        probs = jax.jit(lambda port, x: port.classify(x).probs)(port, x)
    assert same(port.state_dict(), before)
    assert not np.allclose(probs, port.predict_proba(x))


def test_parameters_and_buffers_share_no_name():
    model, port = make_pair(LADDER)
    assert set(parameters(port)) == {name for name, _ in model.named_parameters()}
    assert set(buffers(port)) == set(model.state_dict()) - set(parameters(port))
    changed = with_parameters(port, {FIRST: jnp.full(3, 7.0)})
    assert not same(values(changed), values(port))
    assert same(changed.state_dict(), {**port.state_dict(), FIRST: np.full(3, 7.0)})


@pytest.mark.slow
def test_fit_has_pyros_weights_and_running_statistics():
    """Nothing is random in a classifier that sees all data at once."""
    model, port = make_pair(CLASSIFIER)
    port = port.with_weights(model.state_dict())
    settings = {"epochs": 8, "batch_size": 24, "lr": 0.01, **QUIET}
    ppl_vae.inference.fit(model, labelled(0), **settings)
    with jax.checking_leaks():
        run = fit(port, labelled(0), **settings)
    close(run.model.state_dict(), model.state_dict(), 1e-4)
    x, y = labelled(1)
    np.testing.assert_allclose(run.model.predict_proba(x), model.predict_proba(x), atol=1e-4)
    theirs = ppl_vae.inference.mean_loss(model, (x, y))
    np.testing.assert_allclose(mean_loss(run.model, (x, y)), theirs, rtol=1e-4)
    for name, value in values(port).items():
        assert not np.array_equal(value, values(run.model)[name])


@pytest.mark.slow
def test_fit_of_a_ladder():
    """The statistics of what stands below all draws are Pyro's after the same batch."""
    model, port = make_pair(LADDER)
    port = port.with_weights(model.state_dict())
    before = port.state_dict()
    settings = {"epochs": 1, "batch_size": 24, **QUIET}
    ppl_vae.inference.fit(model, pixels(0), ppl_vae.inference.ELBO(2), **settings)
    run = fit(port, pixels(0), ELBO(2), validation=pixels(1), **settings)
    assert run["validation_loss"][-1] == mean_loss(run.model, pixels(1), ELBO(2))
    ours, theirs = values(run.model), model.state_dict()
    for name, value in ours.items():
        if name.startswith("encoders."):
            np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)
        assert not np.array_equal(value, before[name]), name
    assert same(port.state_dict(), before)


@pytest.mark.slow
def test_all_programs_of_an_objective_hand_them_on():
    """SemiSupervised runs the pair on the labelled and on the unlabelled of each batch."""
    model, port = make_pair(M2)
    port = port.with_weights(model.state_dict())
    settings = {"epochs": 1, "batch_size": 24, **QUIET}
    ppl_vae.inference.fit(
        model, partly_labelled(0), ppl_vae.inference.SemiSupervised(0.5), **settings
    )
    run = fit(port, partly_labelled(0), SemiSupervised(0.5), **settings)
    ours, theirs = values(run.model), model.state_dict()
    assert len(ours) == 2
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)


def of_particles(shape):
    return 1.3 * np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("STL", (2,)), ("DReG", (2,)), ("PIWAE", (2, 2)), ("RWS", (2, True, True))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gradients_by_paths_move_them_once_as_pyros_do(monkeypatch, name, arguments):
    """The port runs both programs again for them, and RWS once more for what it simulates."""
    monkeypatch.setattr(port_support, "noise", of_particles)
    model, port = make_pair(HIERARCHICAL)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    ours, theirs = (
        getattr(backend.inference, name)(*arguments) for backend in (ppl_vae, ppl_vae.numpyro)
    )

    def in_pyro():
        with TorchNoise():
            return ours.differentiable_loss(model.model, model.guide, torch.tensor(x)).item()

    with float64():
        weights = {n: jnp.asarray(w.detach().numpy()) for n, w in model.named_parameters()}
        state = {n: {"value": jnp.asarray(model.state_dict()[n])} for n in buffers(port)}

        def in_port(state):
            values = {**weights, **state}
            with Noise():
                found = theirs.loss_with_mutable_state(key(), values, port.model, port.guide, x)
            return found["loss"], found["mutable_state"]

        step = jax.jit(in_port)
        for _ in range(2):
            with training():
                loss, moved = step(state)
            np.testing.assert_allclose(loss, in_pyro(), rtol=1e-9)
            for site, held in moved.items():
                np.testing.assert_allclose(held["value"], model.state_dict()[site], rtol=1e-9)
                assert not np.array_equal(held["value"], state[site]["value"])
            state = moved
        # Where they are used, also in the second run they are those that SVI hands on.
        model.eval()
        loss, still = jax.jit(lambda state: in_port(state))(state)
        np.testing.assert_allclose(loss, in_pyro(), rtol=1e-9)
        assert all(np.array_equal(still[n]["value"], held["value"]) for n, held in state.items())


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(tmp_path):
    _, port = make_pair(CLASSIFIER)
    settings = {"batch_size": 8, "lr": 1e-2, **QUIET}
    whole = fit(port, labelled(0), epochs=4, **settings)
    fit(port, labelled(0), epochs=2, out=tmp_path, **settings)
    arrays, _ = safetensors_file.read(tmp_path / "checkpoint.safetensors")
    assert {f"model.{name}" for name in buffers(port)} <= set(arrays)
    resumed = fit(port, labelled(0), epochs=4, out=tmp_path, resume=True, **settings)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_files_travel_both_ways(tmp_path):
    model, port = make_pair(CLASSIFIER)
    (x, _), settings = labelled(1), {"epochs": 3, "batch_size": 8, "lr": 1e-2, **QUIET}
    trained = fit(port, labelled(0), **settings).model
    trained.save(tmp_path / "a")
    there = ppl_vae.models.Classifier.load(tmp_path / "a")
    assert same({n: v.numpy() for n, v in there.state_dict().items()}, trained.state_dict())
    np.testing.assert_allclose(there.predict_proba(x), trained.predict_proba(x), atol=1e-6)
    ppl_vae.inference.fit(model, labelled(0), **settings)
    model.save(tmp_path / "b")
    back = ports.Classifier.load(tmp_path / "b")
    assert same(back.state_dict(), {n: v.numpy() for n, v in model.state_dict().items()})
    np.testing.assert_allclose(back.predict_proba(x), model.predict_proba(x), atol=1e-6)


@pytest.mark.slow
def test_what_looks_at_a_model_leaves_them():
    _, port = make_pair(HIERARCHICAL)
    port = with_parameters(port, {name: value + 0.3 for name, value in buffers(port).items()})
    before, loss = port.state_dict(), mean_loss(port, pixels(1))
    log_likelihood(port, pixels(1), k=3)
    port.sample(4, key=key())
    port.reconstruct(*pixels(1), key=key())
    assert same(port.state_dict(), before)
    assert mean_loss(port, pixels(1)) == loss


@pytest.mark.parametrize("objective", [ELBO(2), numpyro.infer.Trace_ELBO()], ids=["ours", "theirs"])
def test_numpyros_svi_moves_them_in_training(objective):
    _, port = make_pair(HIERARCHICAL)
    (x,) = pixels(0)
    svi = numpyro.infer.SVI(port.model, port.guide, numpyro.optim.Adam(1e-2), objective)
    state = svi.init(key(), x)
    start = {name: held["value"] for name, held in state.mutable_state.items()}
    assert same(start, values(port))
    with training():
        state, _ = jax.jit(svi.update)(state, x)
    after = {name: held["value"] for name, held in state.mutable_state.items()}
    v = x @ port.encoders[0].trunk.layers[0].weight.T
    np.testing.assert_allclose(after[FIRST], 0.1 * v.mean(0), atol=1e-6)
    assert not [name for name in start if np.array_equal(after[name], start[name])]
    trained = port.with_weights({**svi.get_params(state), **after})
    assert same(values(trained), after)


def test_svi_moves_them_as_fit_does():
    _, port = make_pair(CLASSIFIER)
    x, y = labelled(0)
    svi = numpyro.infer.SVI(port.model, port.guide, numpyro.optim.Adam(0.01), ELBO())
    state = svi.init(key(), x, y)
    update = jax.jit(svi.update)
    with training():
        for _ in range(3):
            state, _ = update(state, x, y)
    after = {name: held["value"] for name, held in state.mutable_state.items()}
    run = fit(port, (x, y), epochs=3, batch_size=24, lr=0.01, **QUIET)
    close(after, values(run.model), 1e-4)


def test_fit_by_numpyros_own_elbo():
    _, port = make_pair(HIERARCHICAL)
    settings = {"epochs": 1, "batch_size": 12, **QUIET}
    run = fit(port, pixels(0), numpyro.infer.Trace_ELBO(), **settings)
    moved = values(run.model)
    assert not [name for name, value in values(port).items() if np.array_equal(value, moved[name])]
    says = r"objective should have num_particles=1 for a model with batch normalisation, .*=2\)"
    with pytest.raises(ValueError, match=says):
        fit(port, pixels(0), numpyro.infer.Trace_ELBO(num_particles=2), **settings)


@pytest.mark.slow
def test_a_model_that_calls_its_parents_programs():
    class Twice(ports.Classifier):
        def model(self, x, y):
            super().model(x, y)

    _, port = make_pair(CLASSIFIER)
    twice = Twice(6, 3, classifier=NET.make(ports, key=key()), key=key())
    twice = twice.with_weights(port.state_dict())
    assert mean_loss(twice, labelled(0)) == mean_loss(port, labelled(0))
    settings = {"epochs": 1, "batch_size": 24, **QUIET}
    runs = [fit(p, labelled(0), **settings).model.state_dict() for p in (port, twice)]
    assert same(*runs)
