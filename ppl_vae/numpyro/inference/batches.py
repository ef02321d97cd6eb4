"""Data on the device, handed out batch by batch, as `ppl_vae.inference.batches`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ppl_vae.checks import as_numpy


def as_tuple(data: Any) -> tuple[Any, ...]:
    """`data` as the arguments of a model: one array stands for itself."""
    return tuple(data) if isinstance(data, tuple | list) else (data,)


def find_device(device: str | jax.Device) -> jax.Device:
    """The device by its name, "auto" being the first that jax prefers.

    Raises:
        ValueError: there is no such device.
    """
    if isinstance(device, jax.Device):
        return device
    try:
        return jax.devices(None if device == "auto" else device)[0]
    except RuntimeError as error:
        raise ValueError(
            f"device should be auto or one that jax sees, was {device!r}: {error}"
        ) from error


class Batches:
    """Arrays on `device`: floating ones in the type `dtype`, integers in jax's own.

    Dynamically binarised pixels (`ppl_vae.data.Dynamic`) lie there as probabilities and are drawn
    anew in every batch. `arrays` are handed to a compiled program, in which `take` makes a batch.
    """

    def __init__(self, data: Sequence[Any], device: jax.Device, dtype: Any) -> None:
        self.device, self.dtype = device, dtype
        self.dynamic = [hasattr(part, "probs") for part in data]
        parts = [as_numpy(getattr(part, "probs", part)) for part in data]
        self.arrays = tuple(
            jax.device_put(part.astype(dtype) if part.dtype.kind == "f" else part, device)
            for part in parts
        )

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, arrays: Sequence[Array], index: Array, key: Array) -> tuple[Array, ...]:
        """The batch of `arrays` at `index`."""
        parts = []
        for number, (array, dynamic) in enumerate(zip(arrays, self.dynamic, strict=True)):
            part = array[index]
            if dynamic:
                draw = jax.random.bernoulli(jax.random.fold_in(key, number), part)
                part = draw.astype(self.dtype)
            parts.append(jnp.asarray(part))
        return tuple(parts)
