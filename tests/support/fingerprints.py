"""Trains every model by every objective of the tables, and prints what became of the weights.

    python tests/support/fingerprints.py pyro|recorded|compiled|numpyro NUMBER [NAMES ...]

A line for each, or for each that is named: its name, and the SHA-256 of its weights. NUMBER seeds
the global random states before each run, on which nothing may depend. "pyro" is eager; "recorded"
runs the graphs of compiled steps as they were recorded, which spares inductor's seconds for each.
"""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from cases import CASES, Case
from every_objective import LOSSES, OF_GUIDE

from ppl_vae.data import Dynamic

Weights: TypeAlias = dict[str, np.ndarray]
Runs: TypeAlias = dict[str, Callable[[], Weights]]
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 10, "lr": 1e-2, "seed": 3, "device": "cpu"}
ONE_SHAPE = {"batch_size": 12}
"""Half the data: another shape of the last batch would be compiled by itself."""
BY_NAME = {case.name: case for case in CASES}
FOR = {"label": "m2-semi-supervised", "class": "sbn", "number": "vae"}
"""The case whose latents are what an objective of `LOSSES` is for."""


def of_loss(name: str) -> Case:
    """A case for that objective of `LOSSES`."""
    case = BY_NAME[FOR[LOSSES[name].kinds[0]]]
    alone = LOSSES[name].trains == OF_GUIDE
    return replace(case, unused="decoder." if alone else case.unused)


def anew(seed: int) -> tuple[Any, ...]:
    """Pixels that are drawn anew for each batch."""
    (x,) = BY_NAME["vae"].data(seed)
    return (Dynamic(0.1 + 0.8 * x),)


EVERY_CASE = [*CASES, replace(BY_NAME["vae"], name="pixels-drawn-anew", data=anew)]


def states() -> list[Any]:
    """The random states that a process has."""
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    return [torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2:], random.getstate()]


@contextmanager
def shaken(number: int) -> Iterator[None]:
    """Other random states of the process, which what happens inside leaves as they are."""
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - the one that others use
    random.seed(number)
    before = states()
    yield
    assert states() == before, "the caller's random state changed"


def in_pyro(number: int, **changed: Any) -> Runs:
    """Trained weights by name, with some settings changed."""
    from support import make, objective_of

    from ppl_vae.inference import ELBO, Lagging, fit

    def weights(case: Case, objective: Callable[[], Any]) -> Weights:
        model, loss = make(case), objective()
        with shaken(number):
            fit(model, case.data(0), loss, progress=False, **{**SETTINGS, **changed})
        return {name: value.numpy() for name, value in model.state_dict().items()}

    runs = {case.name: partial(weights, case, partial(objective_of, case)) for case in EVERY_CASE}
    runs |= {name: partial(weights, of_loss(name), loss.make) for name, loss in LOSSES.items()}
    lagging = partial(Lagging, ELBO(), window=1, max_steps=3)
    return runs | {"Lagging": partial(weights, BY_NAME["vae"], lagging)}


def compiled(number: int) -> Runs:
    return in_pyro(number, compile=True, **ONE_SHAPE)


def recorded(number: int) -> Runs:
    from ppl_vae.inference.training import step_graph

    step_graph.compile_graph = lambda steps, _: torch.no_grad()(steps)
    return compiled(number)


def in_numpyro(number: int) -> Runs:
    """Likewise, without runs of parameters that are not trained, which the port refuses."""
    from numpyro_every_objective_support import make
    from port_support import key

    import ppl_vae.numpyro.models
    from ppl_vae.numpyro import inference

    def weights(case: Case, objective: Callable[[], Any]) -> Weights:
        model, loss = case.model.make(ppl_vae.numpyro.models, key=key()), objective()
        with shaken(number):
            settings = {**SETTINGS, **ONE_SHAPE}
            history = inference.fit(model, case.data(0), loss, progress=False, **settings)
        trained: Weights = history.model.state_dict()
        return trained

    runs = {
        case.name: partial(weights, case, partial(case.objective.make, inference))
        for case in EVERY_CASE
        if case.unused is None
    }
    for name, loss in LOSSES.items():
        if of_loss(name).unused is None:
            runs[name] = partial(weights, of_loss(name), partial(make, loss))
    lagging = partial(inference.Lagging, inference.ELBO(), window=1, max_steps=3)
    return runs | {"Lagging": partial(weights, BY_NAME["vae"], lagging)}


def fingerprint(weights: Weights) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


HOW: dict[str, Callable[[int], Runs]] = {
    "pyro": in_pyro,
    "recorded": recorded,
    "compiled": compiled,
    "numpyro": in_numpyro,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    every = HOW[sys.argv[1]](int(sys.argv[2]))
    for name in sys.argv[3:] or every:
        print(name, fingerprint(every[name]()), flush=True)
