"""Equal seeds give equal bytes, in fresh processes, whatever else is random in them."""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from every_objective import FOR_FIT_ALONE, LOSSES
from fingerprints import BY_NAME, EVERY_CASE
from support import PYTHONPATH, SUPPORT, trained

import ppl_vae.inference
import ppl_vae.models
from ppl_vae.inference import Objective

IN_THE_PORT = (
    "pixels-drawn-anew",
    "hierarchical-norm",
    "rws",
    "m2-semi-supervised",
)
"""Compiling all of them takes minutes. These have what is random in `fit` and in programs: order,
pixels, labels in each batch, draws of each kind, what is dreamt; and running statistics."""
IN_GRAPHS = tuple(
    dict.fromkeys(
        (
            *LOSSES,
            *FOR_FIT_ALONE,
            *IN_THE_PORT,
            *{case.model.cls: case.name for case in EVERY_CASE}.values(),
        )
    )
)
"""Every objective, and every model once: recording takes half of a second for each."""
BY_INDUCTOR = ("vae", "vimco")
"""Draws of numbers with their gradients, and of classes. Machine code takes seconds for each."""


def fingerprints(*arguments: str, hash_seed: int, **env: str) -> dict[str, str]:
    """What `fingerprints.py` prints in a fresh process, whose sets have another order."""

    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": str(hash_seed), **env}
    command = [sys.executable, str(SUPPORT / "fingerprints.py"), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.slow
def test_fresh_processes_give_equal_bytes_for_every_model_and_objective() -> None:
    one, other = (fingerprints("pyro", str(n), hash_seed=n) for n in (1, 2))
    assert one == other
    assert one.keys() == {*LOSSES, *FOR_FIT_ALONE, *(case.name for case in EVERY_CASE)}
    assert len(set(one.values())) > 0.9 * len(one)  # they are of runs that differ


@pytest.mark.slow
def test_fresh_processes_give_equal_bytes_by_graphs() -> None:
    one, other = (fingerprints("recorded", str(n), *IN_GRAPHS, hash_seed=n) for n in (1, 2))
    assert one == other
    assert tuple(one) == IN_GRAPHS
    assert len(set(one.values())) > 0.9 * len(one)


@pytest.mark.slow
def test_code_that_inductor_kept_gives_the_bytes_of_fresh_code(tmp_path: Path) -> None:
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    one = fingerprints("compiled", "1", *BY_INDUCTOR, hash_seed=1, **env)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")}
    assert kept
    other = fingerprints("compiled", "2", *BY_INDUCTOR, hash_seed=2, **env)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")}  # was used
    assert one == other
    assert tuple(one) == BY_INDUCTOR


@pytest.mark.slow
def test_fresh_processes_give_equal_bytes_in_the_port() -> None:
    pytest.importorskip("port_support")
    env = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # each compiles by itself
    one, other = (fingerprints("numpyro", str(n), *IN_THE_PORT, hash_seed=n, **env) for n in (1, 2))
    assert one == other
    assert tuple(one) == IN_THE_PORT
    assert len(set(one.values())) == len(one)


def things() -> Iterator[Any]:
    """What a user makes before a call of `fit`: objectives, models, and their parts."""
    for room in (ppl_vae.inference, ppl_vae.models):
        for thing in vars(room).values():
            if inspect.isclass(thing) and thing.__module__.startswith(room.__name__):
                yield thing


def test_the_seed_of_everything_is_one_argument() -> None:
    made = list(things())
    assert sum(issubclass(thing, Objective) for thing in made) > 15
    for thing in [*made, ppl_vae.inference.fit]:
        names = [*inspect.signature(thing).parameters]
        random = [n for n in names if "seed" in n or "generator" in n or n in ("key", "rng")]
        assert random == (["seed"] if thing is ppl_vae.inference.fit else []), thing
    case = BY_NAME["vae"]
    states = [trained(case, seed=seed).state_dict() for seed in (0, 1)]
    assert not any(states[0][name].equal(states[1][name]) for name in states[0])
