"""What every test starts from: one thread, an empty parameter store, the same random numbers."""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch and jax are imported: threads that spin for one another cost more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import compiled_code
import pyro
import pytest
import torch
from example_support import EXAMPLES, Done, Run

pytest_plugins = ["budget"]
compiled_code.keep()
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Every test runs alone as it runs among others, under Pyro's validation."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()


@pytest.fixture
def run_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Runs a script of examples/ with flags, and --out in the test's folder, in this process."""
    import matplotlib.pyplot as plt

    def go(script: str, *flags: str) -> Done:
        path = EXAMPLES / script
        monkeypatch.syspath_prepend(EXAMPLES)  # as `python examples/...` does
        monkeypatch.setattr(sys, "argv", [str(path), "--out", str(tmp_path), *flags])
        status = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            plt.close("all")
        return Done(status, *capsys.readouterr())

    return go


@pytest.fixture
def contents_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """What a script of examples/ defines, by its name; nothing is run."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda script: runpy.run_path(str(EXAMPLES / script))
