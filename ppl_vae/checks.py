"""Checks of what a user hands in, for both backends: one `ValueError` that names the argument."""

from typing import Any

import numpy as np


def as_numpy(value: Any) -> np.ndarray:
    """A numpy view of an array, a torch tensor on any device, or a jax array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def check_lengths(*data: Any) -> int:
    """The number of data, which all arrays of `data` share and which is not zero."""
    if not data:
        raise ValueError("data should be at least one array, was empty")
    lengths = [len(part) for part in data]
    if len(set(lengths)) != 1:
        raise ValueError(f"data should be arrays of one length, had the lengths {lengths}")
    if lengths[0] == 0:
        raise ValueError("data should hold at least one datum, was empty")
    return lengths[0]


def check_matrix(
    name: str, value: Any, dim: int, low: float = -np.inf, high: float = np.inf
) -> None:
    """`value` is a floating (n, dim) array with finite entries in [low, high].

    Dynamically binarised pixels (`ppl_vae.data.Dynamic`) were checked when they were made, so of
    these only the shape is looked at.
    """
    shape = tuple(value.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise ValueError(f"{name} should have shape (n, {dim}), had {shape}")
    if hasattr(value, "probs"):
        return
    array = as_numpy(value)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} should be of a floating type, was {array.dtype}")
    if array.size == 0:
        return
    smallest, largest = float(array.min()), float(array.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ValueError(f"{name} should be finite, held NaN or infinity")
    if smallest < low or largest > high:
        raise ValueError(
            f"{name} should lie in [{low:g}, {high:g}], lay in [{smallest:g}, {largest:g}]"
        )


def check_labels(name: str, value: Any, n_classes: int) -> None:
    """`value` is a vector of integer classes 0, ..., n_classes - 1."""
    array = as_numpy(value)
    if array.ndim != 1:
        raise ValueError(f"{name} should have shape (n,), had {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} should be of an integer type, was {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= n_classes):
        raise ValueError(
            f"{name} should be classes 0 to {n_classes - 1}, "
            f"held {int(array.min())} to {int(array.max())}"
        )


def check_at_least(name: str, value: float, least: float) -> None:
    """`value >= least`, and not NaN."""
    if not value >= least:
        raise ValueError(f"{name} should be at least {least:g}, was {value!r}")
