"""What every test starts from: one thread, an empty parameter store, the same random numbers."""

import os
from collections.abc import Iterator

# Before torch and jax are imported: threads that spin for one another cost more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Every test runs alone as it runs among others, under Pyro's validation."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()
