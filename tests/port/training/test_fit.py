"""The port's fit: what it learns, leaves behind, goes on with, and refuses."""

import csv
import sys

import numpy as np
import pytest
from cases import CASES, M2, VAE, Part, labelled, partly_labelled, pixels
from port_support import jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
import ppl_vae.models
import ppl_vae.numpyro.models as ports
from ppl_vae.data import Dynamic
from ppl_vae.numpyro.inference import ELBO, SemiSupervised, fit, mean_loss
from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import locked

CASE = {case.name: case for case in CASES}
QUIET = {"progress": False, "device": "cpu"}
LATENT = Part("VAE", {**VAE, "hidden": (3,)})


def same(a, b):
    return all(np.array_equal(v, b.state_dict()[name]) for name, v in a.state_dict().items())


def test_it_steps_as_pyros_fit_does():
    """Nothing is random in a classifier that sees all data at once."""
    model, port = make_pair(CASE["classifier"].model)
    port = port.with_weights(model.state_dict())
    settings = {"epochs": 8, "batch_size": 24, "lr": 0.05, **QUIET}
    theirs = ppl_vae.inference.fit(model, labelled(0), **settings)
    ours = fit(port, labelled(0), **settings)
    for name, value in ours.model.state_dict().items():
        np.testing.assert_allclose(value, model.state_dict()[name], atol=2e-4)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    assert not np.allclose(port.state_dict()["classifier.logits.bias"], value)


@pytest.mark.slow
def test_semi_supervised_run_and_resume(tmp_path):
    _, port = make_pair(Part("M2", M2))
    before = port.state_dict()
    objective = SemiSupervised(alpha=0.5, labelled_per_batch=4)
    (x, y), settings = partly_labelled(0), {"batch_size": 5, "lr": 1e-2, **QUIET}
    data = (Dynamic(x * 0.8), y)
    whole = fit(port, data, objective, epochs=4, **settings)

    def interrupt(model):
        interrupt.calls += 1
        if interrupt.calls == 3:
            raise KeyboardInterrupt
        return {}

    interrupt.calls = 0
    with pytest.raises(KeyboardInterrupt):
        fit(port, data, objective, epochs=4, out=tmp_path, validation=interrupt, **settings)
    resumed = fit(port, data, objective, epochs=4, out=tmp_path, resume=True, **settings)
    assert same(whole.model, resumed.model)
    assert not same(whole.model, port)
    assert all(np.array_equal(v, before[name]) for name, v in port.state_dict().items())
    assert np.array_equal(whole["loss"], resumed["loss"])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1.0", "2.0", "3.0", "4.0"]
    with pytest.raises(ValueError, match=r"cannot resume .* lr was"):
        fit(port, data, objective, epochs=4, out=tmp_path, resume=True, **{**settings, "lr": 1.0})


@pytest.mark.slow
def test_the_loss_falls_and_pyro_can_evaluate_the_result(tmp_path):
    _, port = make_pair(LATENT)
    settings = {"epochs": 40, "batch_size": 10, "lr": 3e-2, **QUIET}
    run = fit(port, *pixels(0), validation=pixels(1), out=tmp_path, **settings)
    steps, _ = safetensors_file.read(tmp_path / "checkpoint.safetensors")
    assert steps["optimizer.0"] == 3 * 40  # the last batch of an epoch is smaller
    assert run["loss"][-5:].mean() < 0.9 * run["loss"][:5].mean()
    assert run["validation_loss"][-1] == mean_loss(run.model, pixels(1))
    run.model.save(tmp_path / "model")
    theirs = ppl_vae.inference.mean_loss(
        ppl_vae.models.Model.load(tmp_path / "model"), pixels(1), ppl_vae.inference.ELBO(k=200)
    )
    assert abs(mean_loss(run.model, pixels(1), ELBO(k=200)) - theirs) < 0.05


def test_dynamic_pixels_are_drawn_for_each_batch():
    grey = np.tile(np.array([[0.0, 0.3, 1.0]], np.float32), (2000, 1))
    batches = Batches((Dynamic(grey), np.arange(2000)), jax.devices()[0], np.float32)
    (one, index), (two, _) = (
        batches.take(batches.arrays, jnp.arange(2000), key(s)) for s in (0, 1)
    )
    assert set(np.unique(one)) == {0.0, 1.0}
    assert not np.array_equal(one, two)
    np.testing.assert_allclose(one.mean(0), grey[0], atol=0.04)
    assert one.dtype == np.float32
    assert np.array_equal(index, np.arange(2000))


def test_dropout_is_on():
    losses = []
    for rate in (0.0, 0.5):
        net = ports.CategoricalNet(6, 3, (5,), "relu", (rate, rate), key=key())
        port = ports.Classifier(6, 3, classifier=net, key=key())
        losses.append(fit(port, labelled(0), epochs=1, batch_size=24, **QUIET)["loss"][0])
    assert losses[0] != losses[1]


def test_numpyros_own_elbo():
    _, port = make_pair(LATENT)
    run = fit(port, *pixels(0), numpyro.infer.Trace_ELBO(), epochs=2, batch_size=24, **QUIET)
    assert not same(run.model, port)


@pytest.mark.parametrize("used", [False, True])
def test_a_bad_folder_is_refused_before_anything_is_made(used, tmp_path, monkeypatch):
    _, port = make_pair(LATENT)
    settings = {"epochs": 1, **QUIET}
    monkeypatch.setattr(sys.modules["ppl_vae.numpyro.inference.training.fit"], "Trainer", None)
    if used:
        says = "out should be a folder that no other run is using"
        with locked(tmp_path), pytest.raises(ValueError, match=says):
            fit(port, *pixels(0), out=tmp_path, **settings)
        return
    (tmp_path / "file").write_text("")
    says = "out should be a folder that can be written to, was"
    with pytest.raises(ValueError, match=says):
        fit(port, *pixels(0), out=tmp_path / "file", **settings)
    with pytest.raises(ValueError, match="out should be a path or None, was 5"):
        fit(port, *pixels(0), out=5, **settings)
    with pytest.raises(ValueError, match="out should be the folder of the run to resume, was None"):
        fit(port, *pixels(0), resume=True, **settings)


FLAGS = [(name, value) for name in ("resume", "progress") for value in (None, "yes", 1)]


@pytest.mark.parametrize(("name", "value"), FLAGS)
def test_what_is_neither_true_nor_false_is_refused(name, value, tmp_path):
    _, port = make_pair(LATENT)
    settings = {"epochs": 1, **QUIET, name: value}
    with pytest.raises(ValueError, match=f"{name} should be True or False, was {value!r}"):
        fit(port, *pixels(0), out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_seed_that_jax_would_take_for_another_is_refused():
    _, port = make_pair(LATENT)
    with pytest.raises(ValueError, match=r"seed should be below 2\*\*32, was 4294967296"):
        fit(port, *pixels(0), epochs=1, seed=2**32, **QUIET)
    fit(port, *pixels(0), epochs=1, seed=2**32 - 1, **QUIET)


class Unused(ports.VAE):
    extra: jax.Array

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.extra = jnp.ones(2)


class Flat(ports.VAE):
    extra: jax.Array

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.extra = jnp.ones(2)

    def model(self, x):
        super().model(x + 0.0 * self.extra.sum())


class Bursting(ports.VAE):
    def model(self, x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", self.prior())
            fn = self.decoder(z).base_dist
            bad = jnp.where(x.sum() > 24.5, jnp.nan, 0.0)
            normal = numpyro.distributions.Normal(fn.loc + bad, fn.scale)
            numpyro.sample("x", normal.to_event(1), obs=x)

    def check(self, *data):
        pass


def test_parameters_without_gradients():
    with pytest.raises(ValueError, match="receive a gradient, but these did not: extra"):
        fit(Unused(**LATENT.arguments, key=key()), *pixels(0), epochs=1, **QUIET)
    with pytest.warns(UserWarning, match="of these parameters is exactly zero: extra"):
        fit(Flat(**LATENT.arguments, key=key()), *pixels(0), epochs=1, batch_size=24, **QUIET)


@pytest.mark.slow
def test_a_loss_that_is_nan_stops_and_says_where(tmp_path):
    (x,) = pixels(0)
    x[::5] = 5.0  # in several batches: what follows the first must not hide it
    decoder = ports.DiagNormalNet(2, 6, (3,), key=key())
    port = Bursting(**LATENT.arguments, decoder=decoder, key=key())
    says = r"was nan at epoch 1, batch \d of 6; first site at fault: 'x', whose loc is NaN"
    with pytest.raises(FloatingPointError, match=says):
        fit(port, x, epochs=2, batch_size=4, out=tmp_path, **QUIET)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    broken = port.with_weights({n: v * np.nan for n, v in port.state_dict().items()})
    with pytest.raises(ValueError, match=r"parameter '.*' should be finite"):
        fit(broken, x, epochs=1, **QUIET)
