"""What the tests of the NumPyro port share; where there is no port, importing it skips a file."""

import os

import numpy as np
import pytest

# Before jax computes anything: compiling small programs takes most of the time of these tests.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
for _package in ("numpyro", "jax", "equinox", "optax"):
    pytest.importorskip(_package, reason="the NumPyro port needs pip install 'ppl_vae[numpyro]'")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro  # noqa: E402
import pyro.poutine.messenger  # noqa: E402
import torch  # noqa: E402

import ppl_vae.models  # noqa: E402
import ppl_vae.numpyro.models  # noqa: E402

__all__ = ["Noise", "TorchNoise", "jax", "jnp", "key", "make_pair", "noise", "numpyro"]


def key(seed: int = 0) -> jax.Array:
    return jax.random.key(seed)


def make_pair(part):
    """The model that `part` (see cases.py) describes, in both backends, with weights of its own."""
    pyro.set_rng_seed(0)
    return part.make(ppl_vae.models), part.make(ppl_vae.numpyro.models, key=key())


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in the place of standard normal ones, the same for every particle and class."""
    last = shape[-2:]
    return np.broadcast_to(np.sin(1.0 + np.arange(np.prod(last))).reshape(last) * 1.3, shape)


class TorchNoise(pyro.poutine.messenger.Messenger):
    """Latent sites of Pyro programs are mean + stddev * noise, with their gradients."""

    def _pyro_sample(self, msg):
        if not hasattr(msg["fn"], "event_shape"):
            return  # a plate
        if not msg["is_observed"] and msg["value"] is None and not msg["infer"].get("enumerate"):
            fn = msg["fn"]
            msg["value"] = fn.mean + fn.variance.sqrt() * torch.tensor(noise(fn.shape()))


class Noise(numpyro.primitives.Messenger):
    """The same for NumPyro programs."""

    def process_message(self, msg):
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        if not msg["infer"].get("enumerate"):
            fn = msg["fn"]
            msg["value"] = fn.mean + jnp.sqrt(fn.variance) * jnp.asarray(noise(fn.shape()))
