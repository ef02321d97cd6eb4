"""One step of stochastic variational inference, eager or compiled."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pyro
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from ppl_vae.inference.batches import Batches
from ppl_vae.inference.compilation import allocator
from ppl_vae.inference.compilation.capture import CannotCapture, Slots
from ppl_vae.inference.compilation.precision import Precision, check_precision, matmul_precision
from ppl_vae.inference.distributed.processes import ALONE, Processes
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.training.step_graph import Graph
from ppl_vae.models.base import Model
from ppl_vae.shared.checks import check_compile

Compile: TypeAlias = Literal["auto"] | bool
Key: TypeAlias = tuple[Any, ...]
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
    """A callable `step(*batch) -> loss`, made for batches like the example.

    Args:
        model: The pair.
        objective: What is minimised.
        optimizer: Of the parameters that are trained, those of the objective's networks too: a
            torch Adam, AdamW, Adamax or SGD.
        example_batch: Arguments of the objective's loss. Batches of other shapes may follow.
        compile: See `Step`.
        clip_norm: See `Step`.
        precision: See `Step`.

    Raises:
        ValueError: the batch is not the model's, or an argument not what it should be; with
            `compile=True`, what prevents compiling.
    """
    objective.check(model, *example_batch)
    step = Step(
        model, objective, optimizer, compile=compile, clip_norm=clip_norm, precision=precision
    )
    step.prepare(*example_batch)
    return step


class Step:
    """A step of an objective's parameters, which changes them and the optimizer's state in place.

    Compiled, loss, gradients and update are one graph: the pair is run once for each shape of a
    batch and each mode (training, frozen parameters, group), and its tensor operations are recorded
    and compiled; on a CUDA device they are replayed as one CUDA graph. What is drawn is drawn anew
    in every step. A loss or a gradient that is not finite changes nothing.

    Args:
        model: The pair.
        objective: What is minimised; schedules in it follow `epoch`.
        optimizer: Steps the parameters that are trained.
        compile: True for compiled steps, False for eager ones, "auto" for compiled ones where that
            is possible: else a line of the log says what prevented it.
        clip_norm: Gradients whose norm, over all parameters that are stepped, is larger are scaled
            down to this norm.
        precision: Of the products of networks, see `precision.matmul_precision`.
        batches: The data, if a batch is given as its indices.
        stops: Whether nothing changes any more after a loss or a gradient that is not finite.
        processes: Those that take the step together, all with the same batch.

    Attributes:
        parameters: Those of the model and of the objective's networks, see `parameters_of`.
        state: The objective's numbers, after the last step.
        skipped: The number of steps that changed nothing, a tensor on the device.
        epoch: The epoch that runs, from 1.
        refused: What prevented compiling, if something did.
        seconds: The time that compiling took.
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
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.compile, self.clip_norm, self.precision = compile, clip_norm, precision
        self.batches, self.stops, self.processes = batches, stops, processes
        self.parameters = parameters_of(model, objective)
        dtype = next((p.dtype for p in self.parameters.values()), torch.float32)
        check_precision(precision, model.device, dtype)
        modules = [model, *objective.networks().values()]
        self.parts = [part for module in modules for part in module.modules()]
        self.slots = Slots(modules)
        self.state = {
            name: value.to(model.device, copy=True) for name, value in objective.state().items()
        }
        self.skipped = torch.zeros((), dtype=torch.int64, device=model.device)
        self.epoch, self.seconds = 1, 0.0
        self.refused: str | None = None
        self.graphs: dict[Key, Graph] = {}

    def __call__(self, *batch: Tensor, group: str | None = None) -> Tensor:
        """The loss per datum before the step, a scalar."""
        graph = self.prepare(*batch, group=group)
        return self._eager(batch, group) if graph is None else graph(batch, self.epoch)

    def prepare(self, *batch: Tensor, group: str | None = None) -> Graph | None:
        """The compiled step for batches of this shape, or None where steps are eager.

        Raises:
            CannotCapture: a ValueError that says what prevents compiling, with `compile=True`.
        """
        if self.compile is False or self.refused is not None:
            return None
        try:
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
        """The loss per datum of a batch, and the objective's numbers for the next step."""
        return self.loss_at(self.epoch, self.state, self.data(batch))

    def data(self, batch: Sequence[Tensor]) -> Sequence[Tensor]:
        """The data of a batch, which may be given as indices."""
        return batch if self.batches is None else self.batches[batch[0]]

    def loss_at(
        self,
        epoch: Any,
        state: Mapping[str, Tensor],
        data: Sequence[Tensor],
        processes: Processes = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss` of these data in some epoch, which may be a tensor, with the objective's state.

        With several `processes` it is this one's part, and their sum is that of one.
        """
        objective = self.objective.at(epoch).with_state(state)
        programs = self.model.model, self.model.guide
        with matmul_precision(self.precision):
            total, new = processes.loss_and_state(objective, *programs, *data)
        return total / len(data[0]), new

    def _eager(self, batch: Sequence[Tensor], group: str | None) -> Tensor:
        self.optimizer.zero_grad()
        buffers = self.slots.saved_buffers()
        # Pyro's checks cost a third of a small model's step, and programs do not change.
        with pyro.validation_enabled(False):
            here = self.epoch, self.state, self.data(batch)
            loss, state = self.loss_at(*here, self.processes)
        parameters = [self.parameters[name] for name in self.stepped(group)]
        loss = self.processes.backward(loss, parameters)
        grads = [p.grad for p in parameters if p.grad is not None]
        finite = bool(grads) and bool(get_total_norm(grads, float("inf")).isfinite())
        if not finite or (self.stops and self.skipped > 0):
            self.skipped += 1
            self.slots.restore(buffers)
            return loss.detach()
        if group is not None:
            # Adam steps what has a gradient; of others it leaves moments and count too.
            for name, parameter in self.parameters.items():
                if self.objective.group_of(name) != group:
                    parameter.grad = None
        if self.clip_norm is not None:
            clip_grad_norm_(parameters, self.clip_norm)
        self.optimizer.step()
        for name, number in state.items():  # in place: graphs hold these tensors
            self.state[name].copy_(number.detach())
        return loss.detach()

    def _graph(self, batch: Sequence[Tensor], group: str | None) -> Graph:
        """The graph of a batch of this shape, with the pair and the optimizer as they are now."""
        key = (
            group,
            tuple([(part.shape, part.dtype, part.device) for part in batch]),
            tuple([part.training for part in self.parts]),
            tuple([parameter.requires_grad for parameter in self.parameters.values()]),
            tuple([tensor.data_ptr() for tensor in self.slots.tensors]),
            tuple([_constants(group) for group in self.optimizer.param_groups]),
            id(self.optimizer.state),  # another one after load_state_dict; graphs keep theirs
        )
        if key not in self.graphs:
            start = time.perf_counter()
            self.graphs[key] = Graph(self, batch, self.stepped(group))
            self.seconds += time.perf_counter() - start
        graph = self.graphs[key]
        # Within an epoch of `fit`, which gives the data, nobody else has a turn.
        if self.batches is None or graph.checked != self.epoch:
            graph.check()
            graph.checked = self.epoch
        return graph

    def stepped(self, group: str | None) -> list[str]:
        """The names of the optimizer's parameters that are trained, of a group."""
        groups = self.optimizer.param_groups
        known = {id(parameter) for given in groups for parameter in given["params"]}
        return [
            name
            for name, parameter in self.parameters.items()
            if (parameter.requires_grad and id(parameter) in known)
            and (group is None or self.objective.group_of(name) == group)
        ]


def _constants(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """An optimizer's settings of a group, which are part of a graph."""
    return tuple([value for name, value in group.items() if name not in ("params", "lr")])


def parameters_of(model: Model, objective: Objective) -> dict[str, nn.Parameter]:
    """The parameters of the model, and of the objective's networks by names that no other has.

    Raises:
        ValueError: a network has a parameter of the model.
    """
    found = dict(model.named_parameters())
    shared = {id(parameter): key for key, parameter in found.items()}
    for name, network in objective.networks().items():
        for key, parameter in network.named_parameters(prefix=f"network:{name}"):
            if id(parameter) in shared:
                raise ValueError(
                    f"{name} should have parameters of its own, but {key!r} is "
                    f"{shared[id(parameter)]!r} of the model"
                )
            found[key] = parameter
    return found
