"""Runs on meshes of the host's devices, compared with runs on one: prints numbers as JSON.

`test_numpyro_sharding.py` starts it in a process with four devices, in double precision.
"""

import json
import sys
from pathlib import Path

import numpy as np
from cases import CASES, pixels
from port_support import jax, key

import ppl_vae.numpyro.models as ports
from ppl_vae.data import Dynamic
from ppl_vae.numpyro.inference import ELBO, Lagging, fit
from ppl_vae.numpyro.inference.training.optimizers import Stepping
from ppl_vae.numpyro.inference.training.placement import Placement
from ppl_vae.numpyro.inference.training.trainer import Trainer
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.optimizers import SGD

CASE = {case.name: case for case in CASES}
X = pixels(0)[0]
SETTINGS = {"epochs": 2, "batch_size": 8, "progress": False, "lr": 0.02, "clip_norm": 1.0}
# 22 data are two batches of 8 and one of 6, which two devices can share, and four cannot.
RUNS = {
    "vae": (CASE["vae"].model, Dynamic(0.8 * X[:22]), None),
    "in turns": (CASE["vae"].model, X, Lagging(max_steps=4, window=2)),
    "batch norm": (CASE["dlgm-norm"].model, X, None),
}


def mesh(size):
    return jax.sharding.Mesh(np.array(jax.devices()[:size]), ("batch",))


def run(name, **settings):
    part, data, objective = RUNS[name]
    return fit(part.make(ports, key=key()), data, objective, **{**SETTINGS, **settings})


def largest(a, b):
    return max(float(abs(value - b[name]).max()) for name, value in a.items())


def differences(one, other):
    """The largest one of losses and of weights."""
    weights = largest(one.model.state_dict(), other.model.state_dict())
    return {"loss": float(abs(one["loss"] - other["loss"]).max()), "weights": weights}


def compared(out):
    """Runs on one device and on several, of which one goes on with another mesh."""
    first = RUNS["vae"][0].make(ports, key=key()).state_dict()
    alone = run("vae", out=out / "one")
    found = {"moved": largest(alone.model.state_dict(), first)}
    run("vae", epochs=1, mesh=mesh(4), out=out / "several")
    resumed = run("vae", mesh=jax.make_mesh((2,), ("x",)), out=out / "several", resume=True)
    found["four, then two"] = differences(alone, resumed)
    found["in turns"] = differences(run("in turns"), run("in turns", mesh=mesh(2)))
    found["batch norm"] = differences(run("batch norm"), run("batch norm", mesh=mesh(4)))
    return found


def checkpoints(out):
    """Whether those of runs on one device and on several have the same form, and the same text."""
    saved = [
        safetensors_file.read(out / name / "checkpoint.safetensors") for name in ("one", "several")
    ]
    forms = [
        ({n: (v.shape, str(v.dtype)) for n, v in arrays.items()}, text) for arrays, text in saved
    ]
    return forms[0] == forms[1]


def operations(size):
    """Floating point operations that a device does in an epoch of one batch."""
    model = ports.VAE(6, 2, (64,), key=key())
    stepping, place = Stepping(optimizer=SGD()), Placement(mesh(size))
    trainer = Trainer(model, ELBO(), (X,), place, len(X), stepping)
    given = (trainer.batches.arrays, np.arange(len(X))[None], [], None, key(), 1)
    compiled = trainer.run.lower(trainer.kept, *given, turns=ELBO().turns()).compile()
    return compiled.cost_analysis()["flops"]


def message(**settings):
    try:
        fit(CASE["vae"].model.make(ports, key=key()), X, **{**SETTINGS, **settings})
    except (ValueError, FloatingPointError) as error:
        return str(error)
    return ""


class Broken(ELBO):
    """An ELBO of data that are out of range."""

    def check(self, model, *data):
        pass

    def loss_and_state(self, model, guide, *data, **settings):
        return super().loss_and_state(model, guide, *(part / 0.0 for part in data), **settings)


if __name__ == "__main__":
    assert len(jax.devices()) == 4
    folder = Path(sys.argv[1])
    found = {"differences": compared(folder), "same checkpoint": checkpoints(folder)}
    found["operations"] = {str(size): operations(size) for size in (1, 4)}
    found["refused"] = message(batch_size=10, mesh=mesh(4))
    found["fault"] = message(objective=Broken(), mesh=mesh(4))
    print(json.dumps(found))
