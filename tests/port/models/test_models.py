"""Ports as models: weights and files that travel, arguments, samples, and what is imported when."""

import copy

import numpy as np
import pytest
import torch
from cases import CASES, PAIRS, Part
from port_support import jax, jnp, key, make_pair, numpyro
from support import CASE, run_python

import ppl_vae.models
import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import impute
from ppl_vae.numpyro.models.networks.layers import training

IDS = {"ids": lambda case: case.name}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("case", PAIRS, **IDS)
def test_weights_travel_both_ways(case):
    model, port = make_pair(case.model)
    there = port.with_weights(model.state_dict())
    back = copy.deepcopy(model).with_weights({n: v * 0 for n, v in model.state_dict().items()})
    back.with_weights(there.state_dict())
    assert not same(port.state_dict(), there.state_dict())
    assert all(torch.equal(v, back.state_dict()[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("case", PAIRS, **IDS)
def test_files_travel_both_ways(case, tmp_path):
    model, port = make_pair(case.model)
    model.save(tmp_path / "a")
    there = ports.Model.load(tmp_path / "a")
    assert type(there) is type(port)
    assert there.describe() == port.describe() == model.describe()
    there.save(tmp_path / "b")
    back = ppl_vae.models.Model.load(tmp_path / "b")
    assert all(torch.equal(v, back.state_dict()[n]) for n, v in model.state_dict().items())


def test_arguments_survive_jit_and_tree_map():
    _, port = make_pair(next(case for case in CASES if case.name == "vae-parts").model)
    for other in (jax.tree.map(lambda v: v + 1, port), jax.jit(lambda p: p)(port)):
        assert other.describe() == port.describe()
        assert jax.tree.structure(other) == jax.tree.structure(port)
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(dict(port.arguments)))
    assert "key" not in port.arguments


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("decoder.logits.bias"), r"missing: \['decoder.logits.bias'\]"),
        (lambda w: w.update(other=np.zeros(1)), r"unknown: \['other'\]"),
        (
            lambda w: w.update({"decoder.logits.bias": np.zeros(1)}),
            r"of another shape: \['decoder.logits.bias'\]",
        ),
    ],
)
def test_other_weights_are_refused(change, says):
    _, port = make_pair(CASES[0].model)
    weights = port.state_dict()
    change(weights)
    with pytest.raises(ValueError, match=says):
        port.with_weights(weights)


def test_predictions_agree():
    part = Part("M2", {"x_dim": 6, "n_classes": 3, "z_dim": 2, "hidden": (5,)})
    model, port = make_pair(part)
    port = port.with_weights(model.state_dict())
    x = np.random.default_rng(0).random((9, 6), dtype=np.float32)
    np.testing.assert_allclose(port.predict_proba(x), model.predict_proba(x), atol=1e-6)
    assert np.array_equal(port.predict(x), model.predict(x))
    with pytest.raises(ValueError, match=r"x should have shape \(n, 6\), had \(9, 5\)"):
        port.predict(x[:, :5])


def test_decode_is_that_of_the_model():
    model, port = make_pair(CASE["hierarchical"].model)
    port = port.with_weights(model.state_dict())
    drawn = model.sample(7)
    means = np.asarray(port.decode(drawn))
    np.testing.assert_allclose(means, model.decode(drawn).numpy(), atol=1e-6)


def test_a_port_imputes_what_is_missing_alone():
    port = make_pair(CASE["hierarchical"].model)[1]
    x = CASE["hierarchical"].data(0)[0]
    observed = np.random.default_rng(0).random(x.shape) < 0.5
    drawn = np.asarray(impute(port, x, observed, steps=20))
    assert (drawn[observed] == x[observed]).all()
    assert (drawn[~observed] != x[~observed]).any()
    np.testing.assert_array_equal(np.unique(drawn), [0, 1])
    np.testing.assert_array_equal(impute(port, x, np.ones_like(observed)), x)


@pytest.mark.slow
def test_samples_and_reconstructions():
    _, port = make_pair(next(case for case in CASES if case.name == "m2-unlabelled").model)
    draws = port.sample(400, key=key(1))
    assert {name: value.shape for name, value in draws.items()} == {
        "y": (400,),
        "z": (400, 2),
        "x": (400, 6),
    }
    assert abs(draws["z"].mean()) < 0.2
    assert 0 < draws["x"].mean() < 1  # drawn, and not the blank data
    x = np.ones((7, 6), np.float32)
    assert np.array_equal(port.reconstruct(x, key=key(2)), port.reconstruct(x, key=key(2)))
    assert ((port.reconstruct(x, key=key(2)) > 0) & (port.reconstruct(x, key=key(2)) < 1)).all()


def test_concat_linear_is_a_linear_of_the_concatenation():
    layer = ports.ConcatLinear((3, 2), 4, key=key())
    a, b = jnp.arange(6.0).reshape(2, 3), jnp.arange(4.0).reshape(2, 2)
    joined = jnp.concatenate([a, b], -1) @ layer.weight.T + layer.bias
    np.testing.assert_allclose(layer(a, b), joined, rtol=1e-6)


def test_dropout_is_on_in_training_alone():
    net = ports.MLP(2, (500,), "relu", (0.0, 0.25), key=key())
    plain = ports.MLP(2, (500,), "relu", key=key())
    x = jnp.ones((1, 2))
    assert np.array_equal(net(x), plain(x))
    with training(), numpyro.handlers.seed(rng_seed=1):
        assert np.array_equal(plain(x), plain.layers[0](x).clip(0))
        dropped, again = net(x), net(x)
    active, kept = plain(x) > 0, dropped > 0
    assert 0.15 < 1 - (kept.sum() / active.sum()) < 0.35
    np.testing.assert_allclose(dropped[kept], plain(x)[kept] / 0.75, rtol=1e-6)
    assert not np.array_equal(dropped, again)


def test_neither_side_imports_the_other():
    run_python(
        "import sys, ppl_vae, ppl_vae.inference, ppl_vae.models, ppl_vae.shared.training.history\n"
        "assert not {'jax', 'numpyro', 'equinox', 'optax'} & set(sys.modules)"
    )
    run_python(
        "import sys, ppl_vae.numpyro, ppl_vae.data\nassert not {'torch', 'pyro'} & set(sys.modules)"
    )


def test_a_decoder_that_starts_at_the_mean_of_the_data():
    net = ports.BernoulliNet(2, 3, (4,), key=key())
    started = net.start_at(np.array([0.0, 0.3, 1.0]))
    bias = np.asarray(started.logits.bias)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [0.001, 0.3, 0.999], rtol=1e-5)
    np.testing.assert_array_equal(started.logits.weight, net.logits.weight)
    with pytest.raises(ValueError, match=r"mean should have shape \(3,\), had \(2,\)"):
        net.start_at(np.zeros(2))
