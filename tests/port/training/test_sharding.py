"""The port on several devices, which are parts of one CPU here: the same run, with shared work."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from port_support import jax, key
from support import SUPPORT

import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import fit

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
    script, out = str(SUPPORT / "numpyro_sharding.py"), str(tmp_path_factory.mktemp("runs"))
    done = subprocess.run(
        [sys.executable, script, out], env=given, capture_output=True, text=True, cwd=SUPPORT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["four, then two", "in turns", "batch norm"])
def test_the_run_is_the_same(found, case):
    """In double precision. The last batch may be smaller, and runs go on with another mesh."""
    assert found["differences"][case]["loss"] < 1e-9
    assert found["differences"][case]["weights"] < 1e-9
    assert found["differences"]["moved"] > 1e-2


@pytest.mark.slow
def test_the_checkpoint_knows_no_mesh(found):
    assert found["same checkpoint"] is True


@pytest.mark.slow
def test_the_work_is_shared(found):
    """Each device does its part of the floating point operations; the update is not shared."""
    assert found["operations"]["4"] < 0.35 * found["operations"]["1"]


@pytest.mark.slow
def test_a_fault_is_found_on_a_mesh(found):
    assert "batch 1 of 3; first site at fault: 'z', whose loc is NaN" in found["fault"]


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


@pytest.mark.slow
def test_batches_have_equal_parts(found):
    assert found["refused"] == (
        "batch_size should give batches that the 4 devices of mesh can share equally, "
        "gave batches of 10"
    )
