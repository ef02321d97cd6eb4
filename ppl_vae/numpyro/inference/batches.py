"""See `ppl_vae.inference.batches`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Sharding

from ppl_vae.shared.checks import as_numpy, resampling_distribution


def as_tuple(data: Any) -> tuple[Any, ...]:
    """See `ppl_vae.inference.batches.as_tuple`."""
    return tuple(data) if isinstance(data, tuple | list) else (data,)


def find_device(device: str | jax.Device) -> jax.Device:
    """See `ppl_vae.inference.batches.find_device`; "auto" is the default device of jax."""
    if isinstance(device, jax.Device):
        return device
    try:
        return jax.devices(None if device == "auto" else str(device))[0]
    except RuntimeError as error:
        raise ValueError(
            f"device should be auto or one that jax sees, was {device!r}: {error}"
        ) from error


# Functions from key and parameters to data, by `resampling_distribution`.
DRAWS: dict[str | None, Callable[..., Array]] = {
    None: lambda _, part: part,
    "bernoulli": lambda key, p: jax.random.bernoulli(key, p).astype(p.dtype),
    "normal": lambda key, mean, scale: (
        mean + scale * jax.random.normal(key, mean.shape, mean.dtype)
    ),
}


class Batches:
    """See `ppl_vae.inference.batches.Batches`; data are always on `device`, or have its sharding.

    Integers have jax's default type. A compiled program takes `arrays`, the concatenated arrays of
    all data, as an argument, and makes a batch by `take`.
    """

    def __init__(self, data: Sequence[Any], device: jax.Device | Sharding, dtype: Any) -> None:
        self.device = device
        self.draws = [DRAWS[resampling_distribution(part)] for part in data]
        given = [part.parameters if resampling_distribution(part) else (part,) for part in data]
        self.sizes = [len(values) for values in given]
        parts = [as_numpy(value) for values in given for value in values]
        self.arrays = tuple(
            jax.device_put(part.astype(dtype) if part.dtype.kind == "f" else part, device)
            for part in parts
        )

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, arrays: Sequence[Array], index: Array, key: Array) -> tuple[Array, ...]:
        """Return the batch of `arrays` at `index`."""
        parts, rest = [], [array[index] for array in arrays]
        for number, (draw, size) in enumerate(zip(self.draws, self.sizes, strict=True)):
            part = draw(jax.random.fold_in(key, number), *rest[:size])
            parts.append(jnp.asarray(part))
            rest = rest[size:]
        return tuple(parts)
