"""Validation of the names, shapes and dtypes of stored arrays before a model is allocated."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SPARE = 2**20
"""Number of values that a model may always have beside those of its file."""


def check_arrays(owner: str, own: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that arrays have the expected names, shapes and kinds of dtype.

    Args:
        owner: Owner of the arrays, for the message.
        own: The expected arrays by name; anything with a shape and a dtype.
        found: The arrays to check by name.

    Raises:
        ValueError: A name is missing or unknown, or an array has another shape, or integers in
            place of floating-point numbers or vice versa.
    """
    both = [(name, own[name], found[name]) for name in own if name in found]
    faults = {
        "missing": sorted(own.keys() - found.keys()),
        "unknown": sorted(found.keys() - own.keys()),
        "of another shape": [n for n, a, b in both if tuple(a.shape) != tuple(b.shape)],
        "of another kind of number": [n for n, a, b in both if _floating(a) != _floating(b)],
    }
    if any(faults.values()):
        what = "; ".join(f"{fault}: {_some(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"weights should be those of this {owner}, {what}")


def _floating(array: Any) -> bool:
    return "float" in str(array.dtype)


def _some(names: list[str]) -> str:
    return str(names) if len(names) <= 20 else f"{names[:20]} and {len(names) - 20} more"


def check_sizes(beside: int, found: Mapping[str, np.ndarray], trained: Iterable[str]) -> None:
    """Check that a model is not much larger than its file, and its parameters are finite.

    Args:
        beside: Number of values of the model that its file does not hold.
        found: The arrays of the file.
        trained: Names of the parameters.

    Raises:
        ValueError: The model is too large, or a parameter is not finite.
    """
    held = sum(array.size for array in found.values())
    if beside > max(held, SPARE):
        raise ValueError(f"the model should hold little beside its weights, held {beside} numbers")
    broken = [name for name in trained if not np.isfinite(found[name]).all()]
    if broken:
        raise ValueError(f"weights should be finite, NaN or infinity is in {_some(broken)}")
