"""Data-parallel training by several processes (`torchrun`)."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ppl_vae.inference import random_state
from ppl_vae.inference.batch_sums import Shard, total_of
from ppl_vae.inference.distributed.shared_draws import shared_draws
from ppl_vae.inference.draws import Program
from ppl_vae.inference.objectives.parts.base import Objective

T = TypeVar("T")


@dataclass
class Processes:
    """The processes that train a model together, or a single process.

    All have the whole data set, the same weights, the same random state and the same order of the
    data. Each process takes some rows of every batch, with the random numbers that one process
    would draw for them. Gradients are summed, so that all processes take the same step, equal to
    that of one process up to rounding.

    Attributes:
        rank: The number of this process.
        size: Number of processes.
        device: The device of this process.
        group: The name of the group in torch.distributed.
        independent_draws: Whether a site was drawn independently in each process, see
            `shared_draws`.
    """

    rank: int
    size: int
    device: torch.device
    group: str = ""
    independent_draws: bool = False

    @property
    def is_rank_0(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        return self.size > 1

    def broadcast_from_rank_0(self, function: Callable[[], T]) -> T:
        """Call a function in process 0 and return its result, or raise its ValueError, in all."""
        if not self.is_distributed:
            return function()
        results: list[Any] = [None, None]
        if self.is_rank_0:
            try:
                results[0] = function()
            except ValueError as error:
                results[1] = str(error)
        dist.broadcast_object_list(results, src=0)
        if results[1] is not None:
            raise ValueError(results[1])
        value: T = results[0]
        return value

    def check_same(self, name: str, value: Any) -> None:
        """Raise a ValueError unless all processes have the same JSON value."""
        if not self.is_distributed:
            return
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(
                    f"{name} should be the same in all processes, was {values[0]!r} in process 0 "
                    f"and {other!r} in process {rank}"
                )

    def check_synchronised(self, modules: Sequence[nn.Module]) -> None:
        """Raise a ValueError unless all processes have the same random state and buffers."""
        if self.is_distributed:
            states = random_state.of_draws(self.device)
            self.check_same("the state of random numbers after an epoch", _checksums(states))
            for module in modules:
                for name, buffer in module.named_buffers():
                    self.check_same(f"buffer {name!r} after an epoch", _checksums([buffer]))

    def wait(self) -> None:
        """Wait until all processes call this method."""
        if self.is_distributed:
            dist.barrier()

    def broadcast_weights(self, modules: Sequence[nn.Module]) -> None:
        """Copy the weights and buffers of process 0 to all processes."""
        if self.is_distributed:
            for module in modules:  # including non-persistent buffers
                for tensor in (*module.parameters(), *module.buffers()):
                    value = tensor.detach().contiguous()
                    dist.broadcast(value, src=0)
                    tensor.detach().copy_(value)

    def shard(self, n: int) -> Shard:
        """Return this process's rows of a batch of n.

        At least two if the batch has two, as batch normalisation needs a variance. A process for
        which no rows are left repeats those of process 0 with weight 0, since sums over a batch
        need all processes.
        """
        busy = max(1, min(self.size, n // 2))
        rank = self.rank if self.rank < busy else 0
        bounds = [n * i // busy for i in range(busy + 1)]
        weight = float(self.rank < busy)
        return Shard(bounds[rank], bounds[rank + 1], n, weight, self.group)

    def loss_and_state(
        self, objective: Objective, model: Program, guide: Program, *batch: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute this process's part of the loss of a batch, and the objective's next state.

        The parts of all processes add up to `objective.loss_and_state(model, guide, *batch)`.
        """
        if not self.is_distributed:
            return objective.loss_and_state(model, guide, *batch)
        total = torch.zeros((), device=batch[0].device)
        state: dict[str, Tensor] = {}
        for weight, term, rows in objective.sums(*batch):
            shard = self.shard(len(rows[0]))
            shard_rows = [part[shard.start : shard.stop] for part in rows]
            with shared_draws(shard) as sites:
                loss, state = term.loss_and_state(model, guide, *shard_rows)
            self.independent_draws |= sites.independent_draws
            total = total + weight * shard.weight * loss
        return total, state

    def all_reduce(
        self, loss: Tensor, grads: Sequence[Tensor | None]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Sum loss and gradients over the processes, sent as one array."""
        if not self.is_distributed:
            return loss, grads
        parts = [grad for grad in grads if grad is not None]
        flat = torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in parts)])
        total, *rest = total_of(flat, self.group).split([1, *(grad.numel() for grad in parts)])
        sums = iter([p.reshape(grad.shape).to(grad) for p, grad in zip(rest, parts, strict=True)])
        return total.reshape(()).to(loss), [None if grad is None else next(sums) for grad in grads]

    def backward(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute the gradients of the parameters, summed over the processes.

        A parameter that no process uses has no gradient: optimizers skip it.

        Returns:
            The sum of the losses.
        """
        if parameters:
            loss.backward(inputs=list(parameters))
        if not self.is_distributed:
            return loss
        used = loss.new_tensor([parameter.grad is not None for parameter in parameters])
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        loss, (counts, *grads) = self.all_reduce(loss, [used, *parts])
        assert counts is not None
        for parameter, grad, count in zip(parameters, grads, counts.tolist(), strict=True):
            parameter.grad = grad if count > 0 else None
        return loss


def _checksums(tensors: Sequence[Tensor]) -> list[int]:
    """Return a checksum of each tensor."""
    return [zlib.crc32(tensor.cpu().contiguous().numpy().tobytes()) for tensor in tensors]


ALONE = Processes(0, 1, torch.device("cpu"))
