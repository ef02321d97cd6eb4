"""Checks of what a user hands in, for both backends: one `ValueError` that names the argument."""

from numbers import Integral, Real
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
    for part in data:
        if not getattr(part, "shape", ()):
            raise ValueError(f"data should be arrays of shape (n, ...), held {_kind(part)}")
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


def check_labels(name: str, value: Any, n_classes: int, *, unlabelled: bool = False) -> None:
    """`value` is a vector of integer classes 0, ..., n_classes - 1, and maybe -1 (`unlabelled`)."""
    array = as_numpy(value)
    if array.ndim != 1:
        raise ValueError(f"{name} should have shape (n,), had {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} should be of an integer type, was {array.dtype}")
    if array.size and (array.min() < -int(unlabelled) or array.max() >= n_classes):
        or_none = " or -1 (unlabelled)" if unlabelled else ""
        raise ValueError(
            f"{name} should be classes 0 to {n_classes - 1}{or_none}, "
            f"held {int(array.min())} to {int(array.max())}"
        )


def check_at_least(name: str, value: Any, least: float) -> None:
    """`value >= least`, and not NaN."""
    if not (isinstance(value, Real) and float(value) >= least):
        raise ValueError(f"{name} should be at least {least:g}, was {value!r}")


def check_whole(name: str, value: Any, least: int) -> None:
    """`value` is an integer, of any kind, and at least `least`."""
    if not (isinstance(value, Integral) and int(value) >= least):
        raise ValueError(f"{name} should be a whole number of at least {least}, was {value!r}")


def check_arguments(data: tuple[Any, ...], *forms: tuple[str, ...]) -> None:
    """`data` are as many arrays as one of `forms` names, all of one length."""
    check_lengths(*data)
    if len(data) not in [len(form) for form in forms]:
        wanted = " or ".join(f"({', '.join(form)})" for form in forms)
        raise ValueError(f"data should be {wanted}, had {len(data)} arrays")


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
