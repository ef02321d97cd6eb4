"""Data on the device, handed out batch by batch, as `ppl_vae.inference.batches`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Sharding

from ppl_vae.shared.checks import as_numpy, resampling_distribution


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
        return jax.devices(None if device == "auto" else str(device))[0]
    except RuntimeError as error:
        raise ValueError(
            f"device should be auto or one that jax sees, was {device!r}: {error}"
        ) from error


# How data are made of a key and their parameters, by `resampling_distribution`.
DRAWS: dict[str | None, Callable[..., Array]] = {
    None: lambda _, part: part,
    "bernoulli": lambda key, p: jax.random.bernoulli(key, p).astype(p.dtype),
    "normal": lambda key, mean, scale: (
        mean + scale * jax.random.normal(key, mean.shape, mean.dtype)
    ),
}


class Batches:
    """Arrays on `device`: floating ones in the type `dtype`, integers in jax's own.

    A sharding may stand in the place of the device.

    `ppl_vae.data.Dynamic` and `NormalFeatures` lie there as the parameters of their distribution
    and are drawn anew in every batch. `arrays`, those of all data one after the other, are handed
    to a compiled program, in which `take` makes a batch.
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
        """The batch of `arrays` at `index`."""
        parts, rest = [], [array[index] for array in arrays]
        for number, (draw, size) in enumerate(zip(self.draws, self.sizes, strict=True)):
            part = draw(jax.random.fold_in(key, number), *rest[:size])
            parts.append(jnp.asarray(part))
            rest = rest[size:]
        return tuple(parts)
