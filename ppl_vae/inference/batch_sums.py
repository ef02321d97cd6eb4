"""Sums over a batch that is divided among processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """The rows of a batch that this process computes.

    Attributes:
        start: The first row.
        stop: The row after the last.
        size: Number of rows of the batch.
        weight: 1, or 0 if another process computes these rows too and this one only takes part
            in sums.
        group: The name of the processes' group.
    """

    start: int
    stop: int
    size: int
    weight: float
    group: str

    def __len__(self) -> int:
        return self.stop - self.start


_shards: list[Shard] = []


@contextmanager
def summing_over_processes(shard: Shard) -> Iterator[None]:
    """Extend sums and means over a batch, inside the context, to the rows of all processes."""
    _shards.append(shard)
    try:
        yield
    finally:
        _shards.pop()


def mean_of_batch(value: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """Compute the mean over all dimensions or `dims`, including the data; differentiable."""
    if not _shards:
        return value.mean() if dims is None else value.mean(tuple(dims))
    total = value.sum() if dims is None else value.sum(tuple(dims))
    count = total.new_full((1,), value.numel() / total.numel())
    summed = sum_of_batch(torch.cat([total.reshape(-1), count]))
    return (summed[:-1] / summed[-1]).reshape(total.shape)


def sum_of_batch(value: Tensor) -> Tensor:
    """Sum a value, itself a sum over the data, over all processes; differentiable."""
    if not _shards:
        return value
    shard = _shards[-1]
    apply: Any = _Sum.apply
    total: Tensor = apply(shard.weight * value, shard.group)
    return total


def total_of(value: Tensor, group: str) -> Tensor:
    """Sum a tensor over the processes of a group; not differentiable."""
    ops = torch.ops._c10d_functional  # operations that a graph can hold
    total: Tensor = ops.wait_tensor(ops.all_reduce(value.contiguous(), "sum", group))
    return total


class _Sum(torch.autograd.Function):
    """y = sum_r x_r. Losses are summed over processes too, so dx_r = sum_s dy_s."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: str) -> Tensor:
        ctx.group = group
        return total_of(value, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return total_of(grad, ctx.group), None


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Apply `torch.nn.functional.batch_norm` in training mode, with the statistics of all rows.

    Args:
        x: Shape (n, features, ...).
        running_mean: Changed in place.
        running_var: Changed in place.
        weight: Shape (features,).
        bias: Shape (features,).
        training: True.
        momentum: Weight of the new statistics in the running ones.
        eps: Added to the variance.
    """
    dims = [dim for dim in range(x.dim()) if dim != 1]
    shape = [1, -1, *([1] * (x.dim() - 2))]
    count = sum_of_batch(x.new_full((), x.numel() / x.shape[1]))
    mean = sum_of_batch(x.sum(dims)) / count
    centred = x - mean.reshape(shape)
    var = sum_of_batch((centred**2).sum(dims)) / count
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.detach(), momentum)
        if running_var is not None:
            running_var.lerp_((var * count / (count - 1)).detach(), momentum)
    out = centred * (var + eps).rsqrt().reshape(shape)
    if weight is not None:
        out = out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)
