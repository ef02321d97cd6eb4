"""A training step as one graph of tensor operations, captured and compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.inference.compilation.capture import Function, ModuleTensors, capture, compile_graph
from ppl_vae.inference.compilation.cuda_graph import as_cuda_graph
from ppl_vae.inference.compilation.precision import matmul_precision
from ppl_vae.inference.compilation.private_torch import CannotCapture, tree_flatten, tree_unflatten
from ppl_vae.inference.compilation.state_guard import StateGuard
from ppl_vae.inference.training import optimizers
from ppl_vae.inference.training.batch_loss import BatchLoss


@dataclass(frozen=True)
class Carried:
    """The tensors, beside parameters and buffers, that a step changes in place.

    Attributes:
        state: The objective's state.
        skipped: The number of steps that changed nothing.
    """

    state: Mapping[str, Tensor]
    skipped: Tensor


@dataclass(frozen=True)
class UpdateRule:
    """The rule by which a step updates parameters from gradients.

    Attributes:
        clip_norm: Maximum norm of the gradient, or None.
        stops: Whether no step changes anything after a non-finite loss or gradient.
    """

    clip_norm: float | None
    stops: bool


class _Inputs(NamedTuple):
    """Everything that a step reads, in the order of the graph's arguments."""

    tensors: list[Tensor]
    moments: list[dict[str, Tensor]]
    state: dict[str, Tensor]
    skipped: Tensor
    epoch: Tensor
    lrs: list[Tensor]
    data: list[Tensor]
    batch: list[Tensor]


class StepGraph:
    """The step for batches of one shape: loss, gradients, clipping and update.

    Everything that changes between steps is an input of the graph: parameters, buffers, optimizer
    state, the objective's state, epoch, learning rates and the batch.

    Args:
        loss: The loss of a batch.
        optimizer: The optimizer.
        modules: The parameters and buffers of the modules.
        parameters: All parameters by name.
        trained: Names of the parameters that are updated.
        rule: The update rule.
        carried: The other tensors that the step changes.
        batch: An example of a batch.
        epoch: The present epoch.

    Attributes:
        checked: The epoch in which `check` was called last.
    """

    def __init__(
        self,
        loss: BatchLoss,
        optimizer: Optimizer,
        modules: ModuleTensors,
        parameters: Mapping[str, Tensor],
        trained: Sequence[str],
        rule: UpdateRule,
        carried: Carried,
        batch: Sequence[Tensor],
        epoch: int,
    ) -> None:
        self.loss, self.optimizer, self.modules, self.rule = loss, optimizer, modules, rule
        self.parameters, self.checked = parameters, epoch
        optimizers.check_optimizer(optimizer)
        _check_hooks(parameters)
        numbers = {id(tensor): number for number, tensor in enumerate(modules.tensors)}
        self.trained = [numbers[id(parameters[name])] for name in trained]
        self.groups = _group_numbers(optimizer, [parameters[name] for name in trained])
        inputs = self._inputs(carried, [part.clone() for part in batch])
        self.epoch, self.lrs = inputs.epoch, inputs.lrs
        flat, self.spec = tree_flatten(inputs)
        detached = [tensor.detach() for tensor in flat]
        fixed, example = detached[: -len(batch)], detached[-len(batch) :]
        self.guard = StateGuard([*modules.parts, loss.objective], modules.tensors)
        run = compile_graph(capture(self._step, flat, self.guard), flat)
        self.run: Function = partial(run, *fixed)
        if loss.model.device.type == "cuda" and not loss.processes.is_distributed:
            with matmul_precision(loss.precision):
                self.run = as_cuda_graph(run, fixed, example)

    def __call__(self, batch: Sequence[Tensor], epoch: int) -> Tensor:
        """Take a step and return the loss before it."""
        self.epoch.fill_(epoch)
        for lr, group in zip(self.lrs, self.optimizer.param_groups, strict=True):
            lr.fill_(group["lr"])
        with matmul_precision(self.loss.precision):
            loss: Tensor = self.run(*batch)
        return loss

    def check(self) -> None:
        """Check that nothing that the graph holds as a constant has changed.

        Raises:
            CannotCapture: Something has.
        """
        _check_hooks(self.parameters)
        changed = self.guard.changed()
        if changed is not None:
            raise CannotCapture(
                f"{changed} was changed after a step was compiled, which uses its first value: "
                "make it a buffer, which is read in every step"
            )

    def _inputs(self, carried: Carried, batch: list[Tensor]) -> _Inputs:
        moments = []
        for number in self.trained:
            parameter = self.modules.tensors[number]
            state = self.optimizer.state[parameter]
            if not state:
                state.update(optimizers.initial_state(self.optimizer, parameter))
            moments.append({name: state[name] for name in sorted(state)})
        device = self.loss.model.device
        scalar = partial(torch.zeros, (), dtype=torch.double, device=device)
        return _Inputs(
            tensors=list(self.modules.tensors),
            moments=moments,
            state=dict(sorted(carried.state.items())),
            skipped=carried.skipped,
            epoch=scalar(),
            lrs=[scalar() for _ in self.optimizer.param_groups],
            data=[] if self.loss.batches is None else self.loss.batches.tensors,
            batch=batch,
        )

    def _step(self, *flat: Tensor) -> Tensor:
        """Run the program to capture, which reads its inputs only and writes changes to them."""
        inputs: _Inputs = tree_unflatten(list(flat), self.spec)
        data: Sequence[Tensor] = inputs.batch
        if self.loss.batches is not None:
            data = self.loss.batches.drawn(inputs.data, inputs.batch[0])
        n_parameters = len(inputs.tensors) - len(self.modules.buffers)
        buffers = inputs.tensors[n_parameters:]
        new_buffers = [buffer.clone() for buffer in buffers]
        tensors = [*inputs.tensors[:n_parameters], *new_buffers]
        with self.modules.using(tensors):
            loss, state = self.loss.own_part(inputs.epoch, inputs.state, data)
        parameters = [tensors[number] for number in self.trained]
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        loss, grads = self.loss.processes.all_reduce(loss, parts)
        with torch.no_grad():
            used = [grad for grad in grads if grad is not None]
            good = optimizers.all_finite(loss, used)
            if self.rule.stops:
                good = good & (inputs.skipped == 0)
            changes = [(inputs.state[name], value) for name, value in state.items()]
            changes += zip(buffers, new_buffers, strict=True)
            changes += self._updates(inputs, parameters, grads, used)
            for tensor, value in changes:
                tensor.copy_(torch.where(good, value, tensor))
            inputs.skipped.add_((~good).to(inputs.skipped.dtype))
        return loss.detach()

    def _updates(
        self,
        inputs: _Inputs,
        parameters: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        used: Sequence[Tensor],
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of a tensor, a parameter or a moment, and its value after the update."""
        norm = self.rule.clip_norm
        factor = None if norm is None else optimizers.clip_factor(used, norm)
        changes = []
        rows = zip(parameters, grads, self.groups, inputs.moments, strict=True)
        for parameter, grad, number, moments in rows:
            if grad is None:
                continue
            value, new = optimizers.apply_update(
                self.optimizer,
                self.optimizer.param_groups[number],
                inputs.lrs[number],
                parameter,
                grad if factor is None else grad * factor,
                moments,
            )
            changes += [(parameter, value), *((moments[name], m) for name, m in new.items())]
        return changes


def _check_hooks(parameters: Mapping[str, Tensor]) -> None:
    """Raise a CannotCapture if a parameter has a hook, which a graph would not call."""
    for name, parameter in parameters.items():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise CannotCapture(f"{name} should have no hook for a step to be compiled, had one")


def _group_numbers(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[int]:
    """Return the number of each parameter's group in the optimizer."""
    place: dict[int, Any] = {
        id(parameter): number
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    return [place[id(parameter)] for parameter in parameters]
