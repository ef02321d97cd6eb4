"""One step of stochastic variational inference, eager or compiled."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.inference.batches import Batches
from ppl_vae.inference.compilation import allocator, private_torch
from ppl_vae.inference.compilation.capture import Compile, Key, ModuleTensors
from ppl_vae.inference.compilation.precision import Precision, check_precision
from ppl_vae.inference.compilation.private_torch import CannotCapture
from ppl_vae.inference.distributed.processes import ALONE, Processes
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.training import optimizers
from ppl_vae.inference.training.batch_loss import BatchLoss, copy_of_state, parameters_of
from ppl_vae.inference.training.step_graph import Carried, StepGraph, UpdateRule
from ppl_vae.models.base import Model
from ppl_vae.shared.checks import check_compile

log = logging.getLogger(__name__)


def svi_step(
    model: Model,
    objective: Objective,
    optimizer: Optimizer,
    example_batch: Sequence[Tensor],
    *,
    compile: Compile = "auto",
    clip_norm: float | None = None,
    precision: Precision = "fp32",
) -> "Step":
    """Make a callable `step(*batch) -> loss` for batches like the example.

    Args:
        model: The model/guide pair.
        objective: The objective to minimise.
        optimizer: A torch Adam, AdamW, Adamax or SGD of the parameters to train, those of the
            objective's networks included.
        example_batch: Arguments of the objective's loss. Batches of other shapes may follow.
        compile: See `Step`.
        clip_norm: See `Step`.
        precision: See `Step`.

    Raises:
        ValueError: The batch is not valid data for the model, or an argument is invalid; with
            `compile=True`, what prevents compilation.
    """
    objective.check(model, *example_batch)
    step = Step(
        model, objective, optimizer, compile=compile, clip_norm=clip_norm, precision=precision
    )
    step.prepare(*example_batch)
    return step


class Step:
    """A step of an objective's parameters, which changes them and the optimizer's state in place.

    In a compiled step, loss, gradients and update are one graph: the pair is run once for each
    shape of a batch and each mode (training, frozen parameters, group), its tensor operations are
    captured and compiled, and on a CUDA device they are replayed as one CUDA graph. Random numbers
    are new in every step. A non-finite loss or gradient changes nothing.

    Args:
        model: The model/guide pair.
        objective: The objective to minimise; its schedules follow `epoch`.
        optimizer: The optimizer of the parameters to train.
        compile: True for compiled steps, False for eager ones, "auto" for compiled ones where that
            is possible; otherwise a warning in the log says what prevented it.
        clip_norm: Maximum norm of the gradient over all parameters that are updated together;
            larger gradients are scaled down to it.
        precision: Precision of matrix multiplications, see `precision.matmul_precision`.
        batches: The data set, if batches are given as indices.
        stops: Whether no step changes anything after a non-finite loss or gradient.
        processes: The processes that take the step together, all with the same batch.

    Attributes:
        parameters: Parameters of the model and of the objective's networks, see `parameters_of`.
        state: The objective's state after the last step.
        skipped: The number of steps that changed nothing, a tensor on the device.
        epoch: The present epoch, from 1.
        refused: What prevented compilation, or None.
        seconds: The time spent on compilation.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        optimizer: Optimizer,
        *,
        compile: Compile = "auto",
        clip_norm: float | None = None,
        precision: Precision = "fp32",
        batches: Batches | None = None,
        stops: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        check_compile(compile)
        allocator.retain_freed_memory()
        self.objective, self.optimizer, self.compile = objective, optimizer, compile
        self.batch_loss = BatchLoss(model, objective, precision, batches, processes)
        self.rule = UpdateRule(clip_norm, stops)
        self.parameters = parameters_of(model, objective)
        dtype = next((p.dtype for p in self.parameters.values()), torch.float32)
        check_precision(precision, model.device, dtype)
        self.modules = ModuleTensors([model, *objective.networks().values()])
        self.state = copy_of_state(objective, model.device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=model.device)
        self.epoch, self.seconds = 1, 0.0
        self.refused: str | None = None
        self.graphs: dict[Key, StepGraph] = {}

    def __call__(self, *batch: Tensor, group: str | None = None) -> Tensor:
        """Take a step and return the loss per datum before it, a scalar."""
        graph = self.prepare(*batch, group=group)
        return self._eager(batch, group) if graph is None else graph(batch, self.epoch)

    def prepare(self, *batch: Tensor, group: str | None = None) -> StepGraph | None:
        """Compile the step for batches of this shape; return None where steps are eager.

        Raises:
            CannotCapture: A ValueError that says what prevents compilation, with `compile=True`.
        """
        if self.compile is False or self.refused is not None:
            return None
        try:
            private_torch.check_available()
            return self._graph(batch, group)
        except CannotCapture as error:
            if self.compile is True:
                raise CannotCapture(
                    f"compile should be False or 'auto' here, was True: {error}"
                ) from error
            self.refused = str(error)
            log.warning("steps are not compiled: %s", error)
            return None

    def loss(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss per datum of a batch, and the objective's state for the next step."""
        return self.batch_loss.whole(self.epoch, self.state, self.batch_loss.data(batch))

    def trained(self, group: str | None) -> list[str]:
        """Return the names of the parameters that a step of a group (None: of all) updates."""
        groups = self.optimizer.param_groups
        in_optimizer = {id(parameter) for options in groups for parameter in options["params"]}
        return [
            name
            for name, parameter in self.parameters.items()
            if (parameter.requires_grad and id(parameter) in in_optimizer)
            and (group is None or self.objective.group_of(name) == group)
        ]

    def _eager(self, batch: Sequence[Tensor], group: str | None) -> Tensor:
        self.optimizer.zero_grad()
        buffers = self.modules.saved_buffers()
        # Pyro's checks cost a third of a small model's step, and programs do not change.
        with pyro.validation_enabled(False):
            data = self.batch_loss.data(batch)
            loss, state = self.batch_loss.own_part(self.epoch, self.state, data)
        parameters = [self.parameters[name] for name in self.trained(group)]
        loss = self.batch_loss.processes.backward(loss, parameters)
        grads = [p.grad for p in parameters if p.grad is not None]
        stopped = self.rule.stops and bool(self.skipped > 0)
        if stopped or not grads or not bool(optimizers.all_finite(loss, grads)):
            self.skipped += 1
            self.modules.restore(buffers)
            return loss.detach()
        if self.rule.clip_norm is not None:
            factor = optimizers.clip_factor(grads, self.rule.clip_norm)
            for grad in grads:
                grad.mul_(factor)
        self.optimizer.step()
        for name, number in state.items():  # in place: graphs hold these tensors
            self.state[name].copy_(number.detach())
        return loss.detach()

    def _graph(self, batch: Sequence[Tensor], group: str | None) -> StepGraph:
        """Return the graph for batches of this shape, with pair and optimizer as they are now."""
        key = (
            group,
            tuple([(part.shape, part.dtype, part.device) for part in batch]),
            tuple([part.training for part in self.modules.parts]),
            tuple([parameter.requires_grad for parameter in self.parameters.values()]),
            tuple([tensor.data_ptr() for tensor in self.modules.tensors]),
            tuple([_constants(options) for options in self.optimizer.param_groups]),
            id(self.optimizer.state),  # replaced by load_state_dict; graphs keep theirs
        )
        if key not in self.graphs:
            start = time.perf_counter()
            self.graphs[key] = StepGraph(
                self.batch_loss,
                self.optimizer,
                self.modules,
                self.parameters,
                self.trained(group),
                self.rule,
                Carried(self.state, self.skipped),
                batch,
                self.epoch,
            )
            self.seconds += time.perf_counter() - start
        graph = self.graphs[key]
        # Within an epoch of `fit`, which gives the data, no other code runs between steps.
        if self.batch_loss.batches is None or graph.checked != self.epoch:
            graph.check()
            graph.checked = self.epoch
        return graph


def _constants(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the options of an optimizer's group that are constants of a graph."""
    return tuple([value for name, value in group.items() if name not in ("params", "lr")])
