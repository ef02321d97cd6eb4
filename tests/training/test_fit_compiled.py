"""`fit` with compiled steps: the weights of eager ones, and those of an uninterrupted run."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CASE, equal, make, weights

from ppl_vae import fit
from ppl_vae.inference import ELBO, Lagging
from ppl_vae.inference.training import trainer
from ppl_vae.inference.training.step import Step
from ppl_vae.models import Model

CASE_OF_IT = CASE["vae"]
QUIET: dict[str, Any] = {"batch_size": 12, "lr": 1e-2, "progress": False, "device": "cpu"}


def trained(objective: Any = None, **settings: Any) -> Model:
    model = make(CASE_OF_IT).double()
    fit(model, CASE_OF_IT.data(0), objective, **{**QUIET, **settings})
    return model


@pytest.mark.slow
def test_compiled_as_eager_and_resumed_as_whole(tmp_path: Path) -> None:
    eager = weights(trained(epochs=3, compile=False))
    whole = weights(trained(epochs=3, compile=True))
    for name, value in whole.items():
        torch.testing.assert_close(value, eager[name], rtol=1e-6, atol=1e-8)
    trained(epochs=1, compile=True, out=tmp_path)
    resumed = trained(epochs=3, compile=True, out=tmp_path, resume=True)
    assert equal(weights(resumed), whole)
    with pytest.raises(ValueError, match="compile was True when the run started and is now False"):
        trained(epochs=3, compile=False, out=tmp_path, resume=True)


@pytest.mark.slow
def test_groups_in_turn_as_eager() -> None:
    objective = Lagging(ELBO(2), max_steps=4, window=2, subset=12)
    runs = [weights(trained(objective, epochs=2, compile=compile)) for compile in (False, True)]
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-6, atol=1e-8)


def test_auto_compiles_long_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Asked(Step):
        def __init__(self, *arguments: Any, compile: Any, **others: Any) -> None:
            asked.append(compile)
            super().__init__(*arguments, compile=False, **others)

    monkeypatch.setattr(trainer, "Step", Asked)
    file = import_module("ppl_vae.inference.training.fit")
    saved = file._seconds_saved(2, 12, make(CASE_OF_IT), ELBO())
    for limit, compile in ((saved - 1e-9, "auto"), (saved, "auto"), (0, True), (0, False)):
        monkeypatch.setattr(file, "COMPILE_SECONDS", limit)
        trained(epochs=1, compile=compile)
    assert asked == ["auto", False, True, False]


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="compile should be True, False or 'auto', was 'yes'"):
        trained(epochs=1, compile="yes")
