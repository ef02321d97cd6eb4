"""The port on several devices, which are parts of one CPU here: the same run, with shared work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from port_support import jax, key

import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import fit

TESTS = Path(__file__).parent
MESH = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("data",))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `numpyro_sharding.py` prints, which needs four devices from the start."""
    given = {
        **os.environ,
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "PYTHONWARNINGS": "error::UserWarning",
    }
    command = [sys.executable, str(TESTS / "numpyro_sharding.py"), str(tmp_path_factory.mktemp("x"))]
    done = subprocess.run(command, env=given, capture_output=True, text=True, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["vae", "in turns", "batch norm", "m2"])
@pytest.mark.parametrize("devices", ["2", "4"])
def test_the_run_is_the_same(found, case, devices):
    """Losses and weights in double precision; the last batch of an epoch is smaller."""
    for largest_difference in found[case][devices]:
        assert largest_difference < 1e-9
    assert found[case]["moved"] > 1e-3


def test_the_work_is_shared(found):
    """Each device does a part of the floating point operations."""
    whole, of_two, of_four = (found["operations"][n] for n in ("1", "2", "4"))
    assert of_two < 0.7 * whole
    assert of_four < 0.45 * whole


def test_a_run_goes_on_with_another_mesh(found):
    assert found["resumed"] < 1e-9
    assert found["same checkpoint"] is True


def test_a_fault_is_found_on_a_mesh(found):
    assert "batch 1 of 3; first site at fault: 'x', whose" in found["fault"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mesh": "cpu"}, r"mesh should be a jax\.sharding\.Mesh, was 'cpu'"),
        (
            {"mesh": jax.sharding.Mesh(MESH.devices[None], ("data", "model"))},
            r"mesh should have one axis, .* had the axes \('data', 'model'\)",
        ),
        ({"mesh": MESH, "device": "cpu"}, "device should be auto where mesh names the devices"),
    ],
)
def test_meshes_are_checked(settings, says):
    port = ports.VAE(6, 2, (3,), key=key())
    with pytest.raises(ValueError, match=says):
        fit(port, np.ones((8, 6), np.float32), epochs=1, progress=False, **settings)


def test_batches_have_equal_parts(found):
    assert found["refused"] == (
        "batch_size should give batches that the 4 devices of mesh can share equally, "
        "gave batches of 10"
    )
