"""Equality of scales and masks of sites."""

from typing import Any

import torch
from torch import Tensor


def same(a: Any, b: Any) -> bool:
    """Return whether two scales or two masks, numbers or tensors, are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
