"""See `ppl_vae.inference.objectives.parts.equality`."""

from typing import Any

import jax
import numpy as np


def same(a: Any, b: Any) -> bool:
    """See `ppl_vae.inference.objectives.parts.kl.same`."""
    arrays = [isinstance(value, jax.Array | np.ndarray) for value in (a, b)]
    if a is b or not any(arrays):
        return a is b or bool(a == b)
    # Traced arrays have no values to compare.
    traced = any(isinstance(value, jax.core.Tracer) for value in (a, b))
    return all(arrays) and not traced and np.array_equal(a, b)
