"""Global random state: seed it temporarily, save and restore it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, numpy and random, and restore their states afterwards."""
    arrays, extra = get_state(device)
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        set_state(arrays, extra, device)


def get_state(device: torch.device) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the states of torch (arrays), and of numpy and random (JSON values)."""
    arrays = {"torch": torch.get_rng_state().numpy()}
    if device.type == "cuda":
        arrays["cuda"] = torch.cuda.get_rng_state(device).numpy()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - Pyro seeds this one
    numpy = [name, np.asarray(keys).tolist(), *rest]
    return arrays, {"numpy": numpy, "random": random.getstate()}


def set_state(arrays: dict[str, np.ndarray], extra: dict[str, Any], device: torch.device) -> None:
    """Restore what `get_state` returned, possibly read from a file."""
    torch.set_rng_state(torch.tensor(arrays["torch"]))
    if device.type == "cuda" and "cuda" in arrays:
        torch.cuda.set_rng_state(torch.tensor(arrays["cuda"]), device)
    name, keys, place, *rest = extra["numpy"]
    if type(place) is not int or not 0 <= place <= len(keys):  # numpy would read beyond the keys
        raise ValueError(f"the position in numpy's random state should be in 0..624, was {place!r}")
    np.random.set_state((name, np.array(keys, dtype=np.uint32), place, *rest))  # noqa: NPY002
    version, internal, gauss = extra["random"]
    random.setstate((version, tuple(internal), gauss))


def of_draws(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return the states of torch's generators for the CPU and the device."""
    here = torch.get_rng_state()
    return (here,) if device.type == "cpu" else (here, torch.cuda.get_rng_state(device))


def set_draws(states: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """Restore what `of_draws` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
