"""Precision of the matrix multiplications of networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]
PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(precision: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Raise a ValueError unless the device supports this precision for parameters of this dtype."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision should be one of {PRECISIONS}, was {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision should be 'fp32' or 'bf16' on {device.type}, was 'tf32'")
    if precision != "fp32" and dtype != torch.float32:
        raise ValueError(
            f"precision should be 'fp32' for a model in {dtype}, was {precision!r}: it keeps the "
            "model's own type"
        )


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Run the matrix multiplications of networks in this precision inside the context.

    "fp32" is the parameters' own dtype. "tf32" rounds factors to 10 bits and multiplies them on the
    tensor cores of a CUDA device. "bf16" rounds both factors of every linear layer, and its result,
    to 8 bits; the range of exponents is that of single precision. Parameters, activations, log
    densities, sums and optimizer state remain in single precision.
    """
    if precision == "bf16":
        with _LinearInBfloat16():
            yield
        return
    if precision == "fp32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _LinearInBfloat16(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is not F.linear:
            return function(*args, **(kwargs or {}))
        rounded = [
            value.bfloat16() if isinstance(value, Tensor) else value
            for value in (*args, *(kwargs or {}).values())
        ]
        return function(*rounded).float()
