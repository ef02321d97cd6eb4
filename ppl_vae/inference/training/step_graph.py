"""A training step as one graph of tensor operations, recorded and compiled."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.inference.compilation.capture import CannotCapture, Function, compiled, record
from ppl_vae.inference.compilation.cuda_graph import replayed
from ppl_vae.inference.compilation.frozen_state import StateGuard
from ppl_vae.inference.compilation.precision import matmul_precision
from ppl_vae.inference.training import optimizers

if TYPE_CHECKING:
    from ppl_vae.inference.training.step import Step


class Graph:
    """The step for batches of one shape: loss, gradients, clipping and update.

    What changes between steps is among its inputs: parameters, buffers, optimizer state, the
    objective's numbers, epoch, step sizes and the batch.

    Args:
        step: The step that this is the graph of.
        batch: A batch like those to come.
        names: Of the parameters that are stepped.

    Attributes:
        checked: The epoch in which `check` was called last.
    """

    def __init__(self, step: "Step", batch: Sequence[Tensor], names: Sequence[str]) -> None:
        self.step = step
        optimizers.check_optimizer(step.optimizer)
        _check_hooks(step.parameters)
        self.slots = step.slots
        numbers = {id(tensor): number for number, tensor in enumerate(self.slots.tensors)}
        self.trained = [numbers[id(step.parameters[name])] for name in names]
        self.groups = _groups(step.optimizer, [step.parameters[name] for name in names])
        device = step.model.device
        double: dict[str, Any] = {"dtype": torch.double, "device": device}
        self.epoch = torch.zeros((), **double)
        self.lrs = [torch.zeros((), **double) for _ in step.optimizer.param_groups]
        self.names, self.kept = sorted(step.state), step.optimizer.state
        self.data = [] if step.batches is None else step.batches.tensors
        for number in self.trained:
            parameter = self.slots.tensors[number]
            if not step.optimizer.state[parameter]:
                fresh = optimizers.initial_state(step.optimizer, parameter)
                step.optimizer.state[parameter].update(fresh)
        inputs = self._inputs([part.clone() for part in batch])
        given = [tensor.detach() for tensor in inputs]
        held, example = given[: -len(batch)], given[-len(batch) :]
        self.checked = step.epoch
        self.frozen = StateGuard([*step.parts, step.objective], self.slots.tensors)
        run = compiled(record(self._step, inputs, self.frozen), inputs)
        self.run: Function = partial(run, *held)
        if device.type == "cuda" and not step.processes.is_distributed:
            with matmul_precision(step.precision):
                self.run = replayed(run, held, example)

    def __call__(self, batch: Sequence[Tensor], epoch: int) -> Tensor:
        self.epoch.fill_(epoch)
        for lr, group in zip(self.lrs, self.step.optimizer.param_groups, strict=True):
            lr.fill_(group["lr"])
        with matmul_precision(self.step.precision):
            loss: Tensor = self.run(*batch)
        return loss

    def check(self) -> None:
        """Raises a CannotCapture if something that is no input is not what it was."""
        _check_hooks(self.step.parameters)
        changed = self.frozen.changed()
        if changed is not None:
            raise CannotCapture(
                f"{changed} was changed after a step was compiled, which holds it as it was: a "
                "buffer, changed in place, is read in every step"
            )

    def _inputs(self, batch: Sequence[Tensor]) -> list[Tensor]:
        step = self.step
        kept = [
            value
            for number in self.trained
            for _, value in sorted(step.optimizer.state[self.slots.tensors[number]].items())
        ]
        numbers = [step.state[name] for name in self.names]
        counted = [*numbers, step.skipped, self.epoch, *self.lrs]
        return [*self.slots.tensors, *kept, *counted, *self.data, *batch]

    def _step(self, *inputs: Tensor) -> Tensor:
        """What is recorded: all is read from the inputs, and what changes is written to them."""
        step, rest = self.step, list(inputs)
        given = [rest.pop(0) for _ in self.slots.tensors]
        kept = [
            {name: rest.pop(0) for name in sorted(step.optimizer.state[self.slots.tensors[number]])}
            for number in self.trained
        ]
        state = {name: rest.pop(0) for name in self.names}
        skipped, epoch = rest.pop(0), rest.pop(0)
        lrs = [rest.pop(0) for _ in self.lrs]
        data: Sequence[Tensor] = rest
        if step.batches is not None:
            *parts, index = rest
            data = step.batches.drawn(parts, index)
        buffers = given[-len(self.slots.buffers) :] if self.slots.buffers else []
        moving = [buffer.clone() for buffer in buffers]
        tensors = [*given[: len(given) - len(buffers)], *moving]
        with self.slots.holding(tensors):
            loss, new = step.loss_at(epoch, state, data, step.processes)
        own = [tensors[number] for number in self.trained]
        here = torch.autograd.grad(loss, own, allow_unused=True)
        loss, grads = step.processes.all_reduce(loss, here)
        with torch.no_grad():
            changes = [(state[name], value) for name, value in new.items()]
            changes += zip(buffers, moving, strict=True)
            known = [grad for grad in grads if grad is not None]
            good = torch.stack([loss.isfinite(), *(g.abs().amax().isfinite() for g in known)]).all()
            if step.stops:
                good = good & (skipped == 0)
            scale = None if step.clip_norm is None else optimizers.clipping(known, step.clip_norm)
            for parameter, grad, number, old in zip(own, grads, self.groups, kept, strict=True):
                if grad is not None:
                    group = step.optimizer.param_groups[number]
                    clipped = grad if scale is None else grad * scale
                    moved = (group, lrs[number], parameter, clipped, old)
                    value, moments = optimizers.apply_update(step.optimizer, *moved)
                    changes += [(parameter, value)]
                    changes += [(old[name], moment) for name, moment in moments.items()]
            for tensor, value in changes:
                tensor.copy_(torch.where(good, value, tensor))
            skipped.add_((~good).to(skipped.dtype))
        return loss.detach()


def _check_hooks(parameters: Mapping[str, Tensor]) -> None:
    """Raises a CannotCapture if a parameter has a hook, which a graph would not call."""
    for name, parameter in parameters.items():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise CannotCapture(f"{name} should have no hook for a step to be compiled, had one")


def _groups(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[int]:
    """The number of the optimizer's group of each parameter."""
    place = {
        id(parameter): number
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    return [place[id(parameter)] for parameter in parameters]
