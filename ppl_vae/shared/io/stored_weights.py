"""Whether the arrays of a file are those that it should hold, found before anything is made."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SPARE = 2**20
"""The most numbers that a model may have beside those of its file, if these are not more."""


def check_arrays(owner: str, own: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Arrays `found`, of a file say, have the names, shapes and kinds of those that a thing has.

    Args:
        owner: What has them, for the message.
        own: By name, anything with a shape and a dtype.
        found: Likewise.

    Raises:
        ValueError: a name is missing or unknown, or an array has another shape, or integers for
            floating numbers or the other way round.
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
    """A model from a file is not much larger than the file, and its parameters are finite.

    Args:
        beside: How many numbers the model has that its file does not hold.
        found: The arrays of the file.
        trained: Names of the parameters.

    Raises:
        ValueError: it is not so.
    """
    held = sum(array.size for array in found.values())
    if beside > max(held, SPARE):
        raise ValueError(f"the model should hold little beside its weights, held {beside} numbers")
    broken = [name for name in trained if not np.isfinite(found[name]).all()]
    if broken:
        raise ValueError(f"weights should be finite, NaN or infinity is in {_some(broken)}")
