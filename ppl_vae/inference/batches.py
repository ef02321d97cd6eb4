"""Data on the device of the model, handed out batch by batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.shared.checks import as_numpy, resampling_distribution


def as_tuple(data: Any) -> tuple[Any, ...]:
    """`data` as the arguments of a model: one array stands for itself."""
    return tuple(data) if isinstance(data, tuple | list) else (data,)


def find_device(device: str | torch.device) -> torch.device:
    """The device by its name, "auto" being the first CUDA device or else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device should be auto, cpu or cuda, was {device!r}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count() or "no"
        plural = "" if seen == 1 else "s"
        raise ValueError(
            f"device should be one that torch sees, was {str(device)!r}: {seen} CUDA device{plural}"
        )
    return found


def bernoulli(p: Tensor) -> Tensor:
    """Draws of 0 and 1, the latter with these probabilities: `torch.bernoulli` in a quarter of its
    time, which is half of that of a small model's step."""
    return (torch.rand_like(p) < p).to(p.dtype)


# How data are made of their parameters, by `resampling_distribution`; arrays are what they are.
DRAWS: dict[str | None, Callable[..., Tensor]] = {
    None: lambda part: part,
    "bernoulli": bernoulli,
    "normal": torch.normal,
}


class Batches:
    """Arrays as tensors: floating ones in the type `dtype`, integers as int64, masks as they are.

    They lie on `device` if half of its free memory holds them, else each batch is brought there.
    `ppl_vae.data.Dynamic` and `NormalFeatures` lie there as the parameters of their distribution
    and are drawn anew from torch's random state in every batch.

    Attributes:
        resident: Whether all lie on `device`.
    """

    def __init__(self, data: Sequence[Any], device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.draws = [DRAWS[resampling_distribution(part)] for part in data]
        arrays = [part.parameters if resampling_distribution(part) else (part,) for part in data]
        self.parts = [[_tensor(value, dtype) for value in values] for values in arrays]
        self.resident = self._fits()
        if self.resident:
            self.parts = [[tensor.to(device) for tensor in part] for part in self.parts]

    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        return sum(tensor.nbytes for tensor in self.tensors) < free / 2

    def __len__(self) -> int:
        return len(self.parts[0][0])

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters of all data."""
        return [tensor for part in self.parts for tensor in part]

    def __getitem__(self, index: Tensor) -> tuple[Tensor, ...]:
        return self.drawn(self.tensors, index)

    def drawn(self, tensors: Sequence[Tensor], index: Tensor) -> tuple[Tensor, ...]:
        """The data at `index`, of these tensors in the place of `self.tensors`."""
        taken = iter([tensor[index.to(tensor.device)].to(self.device) for tensor in tensors])
        return tuple(
            draw(*(next(taken) for _ in part))
            for draw, part in zip(self.draws, self.parts, strict=True)
        )


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(as_numpy(value))
    if tensor.dtype == torch.bool:
        return tensor  # a mask, which would take eight times the memory
    return tensor.to(dtype if tensor.is_floating_point() else torch.int64)
