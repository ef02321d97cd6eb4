"""Helpers for `tests/training/test_resume.py` and its siblings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import CASE, make, objective_of

from ppl_vae import Model, fit
from ppl_vae.data import Dynamic
from ppl_vae.inference import History
from ppl_vae.shared.io.safetensors_file import read

CASE_NAME = "m2-semi-supervised"


SEMI = CASE[CASE_NAME]


SETTINGS: dict[str, Any] = {"batch_size": 4, "lr": 1e-2, "seed": 3, "device": "cpu"}


def data() -> tuple[Dynamic, np.ndarray]:
    """Pixels that are drawn anew in every batch, and some labels."""
    x, y = SEMI.data(0)
    return Dynamic(0.1 + 0.8 * x), y


def validation(model: Model) -> dict[str, float]:
    """Something with random numbers of its own."""
    return {"mean": float(model.sample(50)["z"].mean())}


def run(out: Path, epochs: int = 5, model: Model | None = None, **settings: Any) -> History:
    model = model or make(SEMI)
    settings = {**SETTINGS, "validation": validation, "out": out, **settings}
    return fit(model, data(), objective_of(SEMI), epochs=epochs, progress=False, **settings)


def other_weights() -> Model:
    """A model whose own weights do not matter to a resumed run."""
    return make(SEMI, seed=99)


def assert_same_run(out: Path, expected: Path, history: History, full: History) -> None:
    """Weights, optimizer, random states and metrics, bit for bit; only the seconds differ."""
    (arrays, text), (others, other_text) = (
        read(folder / "checkpoint.safetensors") for folder in (out, expected)
    )
    assert any(name.startswith("optimizer.0.exp_avg") for name in arrays)
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
    assert text == other_text
    for column in ("epoch", "loss", "mean"):
        np.testing.assert_array_equal(history[column], full[column])
    lines = [(folder / "metrics.csv").read_text().splitlines() for folder in (out, expected)]
    cells = [[line.rsplit(",", 1)[0] for line in file] for file in lines]
    assert cells[0] == cells[1]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The run without interruption."""
    return run(tmp_path_factory.mktemp("full"))
