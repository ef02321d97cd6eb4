"""On a CUDA device: steps that are replayed as one graph are the steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from support import CASE, make, objective_of, tensors, weights

from ppl_vae import fit
from ppl_vae.data import Dynamic
from ppl_vae.inference import ELBO
from ppl_vae.inference.training.step import parameters_of, svi_step
from ppl_vae.models import Model
from ppl_vae.shared.training.optimizers import SGD, Adam, Adamax, AdamW, Optimizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
NAMES = ("vae", "hierarchical-norm", "ladder", "sbn", "m2-unlabelled")


@pytest.mark.parametrize("name", NAMES)
def test_replayed_as_eager(name: str) -> None:
    case, runs = CASE[name], []
    for compile in (False, True):
        model = make(case).double().cuda().train()
        objective = objective_of(case)
        batch = [part.cuda() for part in tensors(case.data(0), torch.double)]
        optimizer = torch.optim.Adam(parameters_of(model, objective).values(), 1e-2, fused=True)
        step = svi_step(model, objective, optimizer, batch, compile=compile)
        pyro.set_rng_seed(1)
        losses = [step(*batch).item() for _ in range(5)]
        assert len(set(losses)) == 5
        runs.append((losses, model.state_dict()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-9)
    for key, value in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][key], value, rtol=1e-6, atol=1e-8)


def trained(**settings: Any) -> Model:
    model = make(CASE["vae"])
    x = np.random.default_rng(0).random((100, 6)).astype(np.float32)
    given: dict[str, Any] = {"epochs": 4, "batch_size": 16, "lr": 1e-2, "device": "cuda"}
    fit(model, Dynamic(x), ELBO(2), progress=False, **{**given, **settings})
    return model


@pytest.mark.parametrize("optimizer", [Adam(), AdamW(), Adamax(), SGD(0.9)])
def test_optimizers(optimizer: Optimizer) -> None:
    runs = [weights(trained(optimizer=optimizer, compile=c)) for c in (False, True)]
    for key, value in runs[0].items():
        torch.testing.assert_close(runs[1][key], value, rtol=1e-4, atol=1e-5)


def test_resumed_as_whole(tmp_path: Path) -> None:
    whole = weights(trained(compile=True))
    trained(compile=True, epochs=2, out=tmp_path)
    resumed = weights(trained(compile=True, out=tmp_path, resume=True))
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precision(precision: Any) -> None:
    found = weights(trained(compile=True, precision=precision))
    exact = weights(trained(compile=True))
    for key, value in exact.items():
        torch.testing.assert_close(found[key], value, rtol=0.1, atol=0.02)


def test_a_fault_between_looks_is_that_of_its_batch() -> None:
    model = make(CASE["vae-gaussian"])
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    with torch.no_grad():
        next(model.decoder.parameters()).mul_(1e30)
    with pytest.raises(FloatingPointError, match="at epoch 1, batch 1 of 30"):
        fit(model, x, epochs=1, batch_size=10, lr=1e-2, device="cuda", compile=True, progress=False)
