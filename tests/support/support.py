"""What the tests of the Pyro side share."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from cases import CASES, Case
from torch import Tensor, nn

import ppl_vae.inference
import ppl_vae.models
from ppl_vae.inference import Objective, fit
from ppl_vae.models import Model

CASE = {case.name: case for case in CASES}
SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
PYTHONPATH = os.pathsep.join([str(ROOT), str(SUPPORT)])
"""What a fresh interpreter needs to import the package and these helpers."""


def make(case: Case, seed: int = 0) -> Model:
    """The case's model with weights by the seed, and without what its objective cannot train."""
    pyro.set_rng_seed(seed)
    model: Model = case.model.make(ppl_vae.models)
    for name, parameter in model.named_parameters():
        if case.unused and name.startswith(case.unused):
            parameter.requires_grad_(False)
    return model


def objective_of(case: Case) -> Objective:
    return case.objective.make(ppl_vae.inference)


def tensors(data: tuple[np.ndarray, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """The data as `fit` hands them to a program."""
    parts = [torch.as_tensor(part) for part in data]
    return tuple(part.to(dtype) if part.is_floating_point() else part for part in parts)


def trained(case: Case, data: Any = None, **settings: Any) -> Model:
    """The case's model after `fit`."""
    model = make(case)
    data = case.data(0) if data is None else data
    settings = {"epochs": 2, "batch_size": 10, "lr": 1e-2, "device": "cpu", **settings}
    fit(model, data, objective_of(case), progress=False, **settings)
    return model


def start_python(program: str) -> subprocess.Popen[str]:
    """A fresh interpreter that runs `program`, which may import what the tests can import."""
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    run = [sys.executable, "-c", program]
    return subprocess.Popen(run, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_python(program: str) -> str:
    """What `program` prints in a fresh interpreter."""
    process = start_python(program)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters by name."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all arrays are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def unchanged(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The names of the arrays that are the same in both."""
    return [name for name in a if torch.equal(a[name], b[name])]


def gradients(loss: Callable[[], Tensor], parameters: Any, seed: int = 0) -> list[Tensor]:
    """The loss and its gradient by every parameter, with random numbers by the seed."""
    pyro.set_rng_seed(seed)
    value = loss()
    grads = torch.autograd.grad(value, list(parameters), allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if grad is None else grad for grad in grads)]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-9) -> None:
    """Loss and gradients agree, and no gradient is trivially zero in both."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert a.abs().sum() > 0


def assert_unbiased(draws: Tensor, expected: Tensor, errors: float = 4.0) -> None:
    """The mean of `draws` over dimension 0 is `expected`, within standard errors, elementwise."""
    standard_error = draws.std(0) / len(draws) ** 0.5
    away = (draws.mean(0) - expected).abs()
    assert (away <= errors * standard_error + 1e-9).all(), (away / standard_error).max()


def copies(model: Model, n: int) -> list[Model]:
    return [copy.deepcopy(model) for _ in range(n)]
