"""Trains every model by every objective of the tables, and prints what became of the weights.

    python tests/fingerprints.py pyro|numpyro NUMBER

A line for each: its name, and the SHA-256 of its weights. NUMBER seeds the global random states
before each run, of which nothing may depend.
"""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from cases import CASES, Case
from every_objective import LOSSES, OF_GUIDE

from ppl_vae.data import Dynamic

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 10, "lr": 1e-2, "seed": 3, "device": "cpu"}
BY_NAME = {case.name: case for case in CASES}
FOR = {"label": "m2-semi-supervised", "class": "sbn", "number": "vae"}
"""The case whose latents are what an objective of `LOSSES` is for."""


def of_objective(name: str) -> Case:
    """A case for that objective of `LOSSES`."""
    case = BY_NAME[FOR[LOSSES[name].kinds[0]]]
    alone = LOSSES[name].trains == OF_GUIDE
    return replace(case, unused="decoder." if alone else case.unused)


def anew(seed: int) -> tuple[Any, ...]:
    """Pixels that are drawn anew for each batch."""
    (x,) = BY_NAME["vae"].data(seed)
    return (Dynamic(0.1 + 0.8 * x),)


CASES_AND_MORE = [*CASES, replace(BY_NAME["vae"], name="pixels-drawn-anew", data=anew)]


def shake(number: int) -> None:
    """Changes the random states that a process has."""
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - the one that others use
    random.seed(number)


def states() -> list[Any]:
    """The random states that a process has."""
    numpy = np.random.get_state(legacy=True)  # noqa: NPY002
    return [torch.get_rng_state().tolist(), [*map(str, numpy)], random.getstate()]


def in_pyro(number: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Names and trained weights."""
    import ppl_vae.inference
    from ppl_vae import fit
    from support import make, objective_of

    def weights(case: Case, objective: Any) -> dict[str, np.ndarray]:
        model = make(case)
        shake(number)
        before = states()
        fit(model, case.data(0), objective, progress=False, **SETTINGS)
        assert states() == before, f"{case.name} changed the caller's random state"
        return {name: value.numpy() for name, value in model.state_dict().items()}

    for case in CASES_AND_MORE:
        yield case.name, weights(case, objective_of(case))
    for name, loss in LOSSES.items():
        yield name, weights(of_objective(name), loss.make())
    lagging = ppl_vae.inference.Lagging(ppl_vae.inference.ELBO(), window=1, most=3, patience=1)
    yield "Lagging", weights(BY_NAME["vae"], lagging)


def in_numpyro(number: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Names and trained weights, without cases that ask for parameters that are not trained."""
    from port_support import key
    from test_numpyro_every_objective import make

    import ppl_vae.numpyro.models
    from ppl_vae.numpyro import inference

    def weights(case: Case, objective: Any) -> dict[str, np.ndarray]:
        model = case.model.make(ppl_vae.numpyro.models, key=key())
        shake(number)
        before = states()
        history = inference.fit(model, case.data(0), objective, progress=False, **SETTINGS)
        assert states() == before, f"{case.name} changed the caller's random state"
        trained: dict[str, np.ndarray] = history.model.state_dict()
        return trained

    for case in CASES_AND_MORE:
        if case.unused is None:
            yield case.name, weights(case, case.objective.make(inference))
    for name, loss in LOSSES.items():
        if of_objective(name).unused is None:
            yield name, weights(of_objective(name), make(loss))
    lagging = inference.Lagging(inference.ELBO(), window=1, most=3, patience=1)
    yield "Lagging", weights(BY_NAME["vae"], lagging)


def fingerprint(weights: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


BACKENDS: dict[str, Callable[[int], Iterator[tuple[str, dict[str, np.ndarray]]]]] = {
    "pyro": in_pyro,
    "numpyro": in_numpyro,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, weights in BACKENDS[sys.argv[1]](int(sys.argv[2])):
        print(name, fingerprint(weights), flush=True)
