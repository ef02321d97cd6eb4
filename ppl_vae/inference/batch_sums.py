"""Sums over the data of a batch that several processes share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The rows of a batch that this process has.

    Attributes:
        start: The first row.
        stop: The row after the last.
        size: Number of rows of the batch.
        weight: 1, or 0 where another process has these rows and this one only keeps in step.
        group: The name of the processes' group.
    """

    start: int
    stop: int
    size: int
    weight: float
    group: str

    def __len__(self) -> int:
        return self.stop - self.start


_shares: list[Share] = []


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Inside, sums and means over a batch are those over the rows of all processes."""
    _shares.append(share)
    try:
        yield
    finally:
        _shares.pop()


def mean_of_batch(value: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """The mean over all dimensions, or `dims`, one of which is that of the data; with gradients."""
    if not _shares:
        return value.mean() if dims is None else value.mean(tuple(dims))
    total = value.sum() if dims is None else value.sum(tuple(dims))
    count = total.new_full((1,), value.numel() / total.numel())
    summed = sum_of_batch(torch.cat([total.reshape(-1), count]))
    return (summed[:-1] / summed[-1]).reshape(total.shape)


def sum_of_batch(value: Tensor) -> Tensor:
    """The sum of `value`, which is one over the data, over all processes; with gradients."""
    if not _shares:
        return value
    share = _shares[-1]
    apply: Any = _Sum.apply
    total: Tensor = apply(share.weight * value, share.group)
    return total


def total_of(value: Tensor, group: str) -> Tensor:
    """The sum of a tensor over the processes of a group, in each of them; without gradients."""
    ops = torch.ops._c10d_functional  # operations that a graph can hold
    total: Tensor = ops.wait_tensor(ops.all_reduce(value.contiguous(), "sum", group))
    return total


class _Sum(torch.autograd.Function):
    """y = sum_r x_r. Losses are added up over processes too, so dx_r = sum_s dy_s."""

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
    """`torch.nn.functional.batch_norm` in training mode, by mean and variance of all rows.

    Args:
        x: Shape (n, features, ...).
        running_mean: Changed in place.
        running_var: Changed in place.
        weight: Shape (features,).
        bias: Shape (features,).
        training: True.
        momentum: What of the statistics goes into the running ones.
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
