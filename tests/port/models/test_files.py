"""The port with damaged and hostile files, and with a folder that another run has."""

import logging

import numpy as np
import pytest
from cases import CASES, pixels
from hostile_files import MODELS, good
from port_support import jax, make_pair

import ppl_vae.models
from ppl_vae.numpyro.inference import fit
from ppl_vae.numpyro.models import Model
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import CHECKPOINT, DAMAGED, locked

CASE = {case.name: case for case in CASES}
SETTINGS = {"batch_size": 10, "lr": 1e-2, "progress": False, "device": "cpu"}


# The port's standard normal is a number and no array, so that a file can give it any size.
REFUSED = [name for name in MODELS if name != "prior-large"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_model_is_refused(name, tmp_path):
    make, words = MODELS[name]
    text, arrays = make()
    safetensors_file.write(tmp_path / "model", arrays, text)
    with pytest.raises(ValueError, match=words) as caught:
        Model.load(tmp_path / "model")
    assert "/model" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_good_model_of_this_kind_is_loaded(tmp_path):
    text, arrays = good()
    safetensors_file.write(tmp_path / "model", arrays, text)
    model = Model.load(tmp_path / "model")
    assert model.describe() == text
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, arrays[name])


def test_shapes_are_compared_before_arrays_are_made(tmp_path, monkeypatch):
    made = []
    uniform = jax.random.uniform
    monkeypatch.setattr(
        jax.random, "uniform", lambda *a, **k: made.append(uniform(*a, **k)) or made[-1]
    )
    text, arrays = good()
    text["arguments"]["x_dim"] = 7
    safetensors_file.write(tmp_path / "model", arrays, text)
    with pytest.raises(ValueError, match="of another shape"):
        Model.load(tmp_path / "model")
    assert made
    assert all(isinstance(array, jax.core.Tracer) for array in made)


MISFITS = {
    r"this run, of another shape: \['optimizer\.1'\]": ("optimizer.1", np.zeros(2, np.float32)),
    r"shape: \['model\.decoder\.logits\.bias'\]": ("model.decoder.logits.bias", np.zeros(2)),
    r"unknown: \['optimizer\.99'\]": ("optimizer.99", np.zeros(2)),
}


@pytest.mark.slow
def test_a_run_goes_on_from_the_good_one_before_and_from_no_misfit(tmp_path, caplog):
    _, port = make_pair(CASE["vae"].model)
    full = fit(port, *pixels(0), epochs=2, out=tmp_path, **SETTINGS)
    newest = tmp_path / CHECKPOINT
    whole = newest.read_bytes()
    arrays, text = safetensors_file.read(newest)
    for words, (name, array) in MISFITS.items():
        safetensors_file.write(newest, {**arrays, name: array}, text)
        with pytest.raises(ValueError, match=words):
            fit(port, *pixels(0), epochs=2, out=tmp_path, resume=True, **SETTINGS)
    newest.write_bytes(whole[:-1])
    with caplog.at_level(logging.WARNING):
        resumed = fit(port, *pixels(0), epochs=2, out=tmp_path, resume=True, **SETTINGS)
    assert f"goes on from '{tmp_path}" in caplog.text
    assert (tmp_path / DAMAGED).read_bytes() == whole[:-1]
    np.testing.assert_array_equal(resumed["loss"], full["loss"])
    for name, value in full.model.state_dict().items():
        np.testing.assert_array_equal(resumed.model.state_dict()[name], value)


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    _, port = make_pair(CASE["vae"].model)
    with locked(tmp_path), pytest.raises(ValueError, match="that no other run is using"):
        fit(port, *pixels(0), epochs=1, out=tmp_path, **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_weights_of_any_kind_of_array_are_taken(tmp_path):
    model, port = make_pair(CASE["vae"].model)
    assert isinstance(model, ppl_vae.models.Model)
    for weights in (model.state_dict(), {n: v.double() for n, v in model.state_dict().items()}):
        taken = port.with_weights(weights).state_dict()
        assert all((taken[name] == value.numpy()).all() for name, value in weights.items())
    with pytest.raises(ValueError, match="of another kind of number"):
        port.with_weights({n: v.int() for n, v in model.state_dict().items()})
