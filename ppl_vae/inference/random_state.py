"""Random numbers of a run: seeded inside, saved and restored, and untouched outside."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch, numpy and random, and gives the caller's states back afterwards."""
    arrays, extra = get_state(device)
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        set_state(arrays, extra, device)


def get_state(device: torch.device) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The states of torch (arrays), and of numpy and random (JSON values)."""
    arrays = {"torch": torch.get_rng_state().numpy()}
    if device.type == "cuda":
        arrays["cuda"] = torch.cuda.get_rng_state(device).numpy()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - Pyro seeds this one
    numpy = [name, np.asarray(keys).tolist(), *rest]
    return arrays, {"numpy": numpy, "random": random.getstate()}


def set_state(arrays: dict[str, np.ndarray], extra: dict[str, Any], device: torch.device) -> None:
    """Restores what `get_state` returned, also after a way through a file."""
    torch.set_rng_state(torch.tensor(arrays["torch"]))
    if device.type == "cuda" and "cuda" in arrays:
        torch.cuda.set_rng_state(torch.tensor(arrays["cuda"]), device)
    name, keys, place, *rest = extra["numpy"]
    if type(place) is not int or not 0 <= place <= len(keys):  # numpy would read beyond the keys
        raise ValueError(f"the place in numpy's random state should be 0..624, was {place!r}")
    np.random.set_state((name, np.array(keys, dtype=np.uint32), place, *rest))  # noqa: NPY002
    version, internal, gauss = extra["random"]
    random.setstate((version, tuple(internal), gauss))


def of_draws(device: torch.device) -> tuple[torch.Tensor, ...]:
    """The states of torch's generators of the CPU and the device."""
    here = torch.get_rng_state()
    return (here,) if device.type == "cpu" else (here, torch.cuda.get_rng_state(device))


def set_draws(states: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """Restores what `of_draws` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
