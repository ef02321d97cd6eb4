"""Training by several processes, each on its part of every batch (`torchrun`)."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ppl_vae.inference import random_state
from ppl_vae.inference.batch_sums import Share, total_of
from ppl_vae.inference.distributed.shared_draws import shared
from ppl_vae.inference.draws import Program
from ppl_vae.inference.objectives.parts.base import Objective

T = TypeVar("T")


@dataclass
class Processes:
    """The processes that train one model together, of which this is one; or this one alone.

    All have the whole data set, the same weights, the same random state and the same order of the
    data. Of each batch every process takes some rows, draws for them what one process would draw,
    and adds its gradient to those of the others, so that all take the step that one process would
    take. What differs is the order in which sums are rounded.

    Attributes:
        rank: The number of this process.
        size: Number of processes.
        device: Where this process computes.
        group: The name of the group in torch.distributed.
        own_draws: Whether something was drawn that processes cannot share, see `shared`.
    """

    rank: int
    size: int
    device: torch.device
    group: str = ""
    own_draws: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows what a run leaves behind."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        return self.size > 1

    def broadcast_from_rank_0(self, function: Callable[[], T]) -> T:
        """What `function` gives in the first process; its ValueError is raised in all."""
        if not self.is_distributed:
            return function()
        found: list[Any] = [None, None]
        if self.first:
            try:
                found[0] = function()
            except ValueError as error:
                found[1] = str(error)
        dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise ValueError(found[1])
        value: T = found[0]
        return value

    def check_same(self, name: str, value: Any) -> None:
        """Raises a ValueError unless all processes have the same `value`, of JSON."""
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

    def check_in_step(self, modules: Sequence[nn.Module]) -> None:
        """Raises a ValueError unless random states and buffers of all processes are the same."""
        if self.is_distributed:
            states = random_state.of_draws(self.device)
            self.check_same("the state of random numbers after an epoch", _prints(states))
            for module in modules:
                for name, buffer in module.named_buffers():
                    self.check_same(f"buffer {name!r} after an epoch", _prints([buffer]))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.is_distributed:
            dist.barrier()

    def broadcast_weights(self, modules: Sequence[nn.Module]) -> None:
        """Gives all processes the weights and buffers of the first."""
        if self.is_distributed:
            for module in modules:  # buffers that are not saved too
                for tensor in (*module.parameters(), *module.buffers()):
                    value = tensor.detach().contiguous()
                    dist.broadcast(value, src=0)
                    tensor.detach().copy_(value)

    def share(self, n: int) -> Share:
        """The rows of a batch of n that this process has.

        Two at least, if there are two: one row has no variance, for batch normalisation. Processes
        for which there are none run the first rows too, whose loss then counts nothing: what a
        batch's statistics need is asked of all.
        """
        busy = max(1, min(self.size, n // 2))
        rank = self.rank if self.rank < busy else 0
        bounds = [n * i // busy for i in range(busy + 1)]
        weight = float(self.rank < busy)
        return Share(bounds[rank], bounds[rank + 1], n, weight, self.group)

    def loss_and_state(
        self, objective: Objective, model: Program, guide: Program, *batch: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The own rows' part of the loss of a batch, and the objective's numbers after it.

        The parts of all processes add up to `objective.loss_and_state(model, guide, *batch)`.
        """
        if not self.is_distributed:
            return objective.loss_and_state(model, guide, *batch)
        total = torch.zeros((), device=batch[0].device)
        state: dict[str, Tensor] = {}
        for weight, term, rows in objective.sums(*batch):
            share = self.share(len(rows[0]))
            own = [part[share.start : share.stop] for part in rows]
            with shared(share) as sites:
                loss, state = term.loss_and_state(model, guide, *own)
            self.own_draws |= sites.own_draws
            total = total + weight * share.weight * loss
        return total, state

    def all_reduce(
        self, loss: Tensor, grads: Sequence[Tensor | None]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Loss and gradients, which are parts, summed over the processes: sent as one array."""
        if not self.is_distributed:
            return loss, grads
        given = [grad for grad in grads if grad is not None]
        flat = torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in given)])
        first, *rest = total_of(flat, self.group).split([1, *(grad.numel() for grad in given)])
        sums = iter([p.reshape(grad.shape).to(grad) for p, grad in zip(rest, given, strict=True)])
        return first.reshape(()).to(loss), [None if grad is None else next(sums) for grad in grads]

    def backward(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute the gradients of the parameters, summed over the processes.

        A parameter has no gradient if no process uses it: optimizers pass over it.

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


def _prints(tensors: Sequence[Tensor]) -> list[int]:
    """A checksum of each tensor."""
    return [zlib.crc32(tensor.cpu().contiguous().numpy().tobytes()) for tensor in tensors]


ALONE = Processes(0, 1, torch.device("cpu"))
