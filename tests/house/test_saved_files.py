"""Files that version 0.1.0 wrote before the modules of the package were moved."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
from support import SUPPORT

from ppl_vae.inference import ELBO, Lagging, Warmup, fit
from ppl_vae.models import VAE, Model, RankOneNormalNet
from ppl_vae.shared.io.safetensors_file import read

SAVED = SUPPORT / "saved_by_0_1"
X = (np.random.default_rng(0).random((24, 6)) < 0.4).astype(np.float32)
SETTINGS: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 8,
    "lr": 1e-2,
    "seed": 3,
    "device": "cpu",
    "resume": True,
    "progress": False,
}


def vae(seed: int = 0) -> VAE:
    pyro.set_rng_seed(seed)
    return VAE(6, 2, (5,), encoder=RankOneNormalNet(6, 2, (4,)))


def assert_weights(model: Any, path: Path) -> None:
    expected, _ = read(path)
    assert expected.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(np.asarray(value), expected[name], rtol=1e-4, atol=1e-5)


def test_a_model_file_loads_in_both_backends() -> None:
    path = SAVED / "vae.safetensors"
    model = Model.load(path)
    assert isinstance(model, VAE)
    assert isinstance(model.encoder, RankOneNormalNet)
    assert_weights(model, path)
    assert_weights(vae(), path)
    ports = pytest.importorskip("ppl_vae.numpyro.models")
    assert_weights(ports.Model.load(path), path)


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "pyro", tmp_path, dirs_exist_ok=True)
    objective = Lagging(ELBO(2, beta=Warmup(4)), max_steps=4, window=2, subset=12)
    model = fit(vae(seed=9), X, objective, out=tmp_path, **SETTINGS).model
    assert_weights(model, SAVED / "pyro_after_4_epochs.safetensors")


def test_a_run_of_the_port_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    port = pytest.importorskip("ppl_vae.numpyro")
    jax = pytest.importorskip("jax")
    shutil.copytree(SAVED / "port", tmp_path, dirs_exist_ok=True)
    model = port.VAE(6, 2, (5,), key=jax.random.key(9))
    trained = port.fit(model, X, port.ELBO(2), out=tmp_path, **SETTINGS).model
    assert_weights(trained, SAVED / "port_after_4_epochs.safetensors")
