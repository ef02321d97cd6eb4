"""Runs on meshes of the host's devices, compared with runs on one: prints numbers as JSON.

`test_numpyro_sharding.py` starts it in a process with four devices, in double precision.
"""

import json
import sys
from pathlib import Path

import numpy as np
from cases import CASES, Part, partly_labelled
from port_support import jax, key

import ppl_vae.numpyro.models as ports
from ppl_vae import files
from ppl_vae.data import Dynamic
from ppl_vae.numpyro.inference import ELBO, Lagging, SemiSupervised, fit
from ppl_vae.numpyro.inference.placement import Placement
from ppl_vae.numpyro.inference.trainer import Trainer
from ppl_vae.numpyro.inference.updates import Stepping

CASE = {case.name: case for case in CASES}
SETTINGS = {"epochs": 2, "batch_size": 8, "progress": False, "lr": 0.02}


def mesh(size):
    return jax.sharding.Mesh(np.array(jax.devices()[:size]), ("batch",))


def doubled(port):
    """The same in double precision, with running statistics that differ from where they start."""
    weights = {n: v.astype(np.float64) for n, v in port.state_dict().items()}
    return jax.tree.map(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, port)


def largest(a, b):
    return max(float(abs(a[name] - b[name]).max()) for name in a)
