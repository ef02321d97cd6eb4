"""One step of stochastic variational inference, eager or compiled."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppl_vae.inference import memory, updates
from ppl_vae.inference.capture import CannotCapture, Function, Slots, compiled, record
from ppl_vae.inference.objective import Objective
from ppl_vae.models.base import Model

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
) -> "Step":
    """A callable `step(*batch) -> loss`, made for batches like the example.

    Args:
        model: The pair.
        objective: What is minimised.
        optimizer: Of the parameters that are trained, those of the objective's networks too: a
            torch Adam, AdamW, Adamax or SGD.
        example_batch: Arguments of the objective's loss. Batches of other shapes may follow.
        compile: See `Step`.

    Raises:
        ValueError: the batch is not the model's; with `compile=True`, what prevents compiling.
    """
    objective.check(model, *example_batch)
    step = Step(model, objective, optimizer, compile=compile)
    step.prepare(*example_batch)
    return step


class Step:
    """A step of an objective's parameters, which changes them and the optimizer's state in place.

    Compiled, loss, gradients and update are one graph: the pair is run once for each shape of a
    batch and each mode (training, frozen parameters, group), and its tensor operations are recorded
    and compiled. What is drawn is drawn anew in every step. A loss that is not finite changes
    nothing.

    Args:
        model: The pair.
        objective: What is minimised; schedules in it follow `epoch`.
        optimizer: Steps the parameters that are trained.
        compile: True for compiled steps, False for eager ones, "auto" for compiled ones where that
            is possible: else a line of the log says what prevented it.

    Attributes:
        parameters: Those of the model and of the objective's networks, see `parameters_of`.
        state: The objective's numbers, after the last step.
        epoch: The epoch that runs, from 1.
        refused: What prevented compiling, if something did.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        optimizer: Optimizer,
        *,
        compile: Compile = "auto",
    ) -> None:
        memory.keep_freed()
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.compile = compile
        self.parameters = parameters_of(model, objective)
        modules = [model, *objective.networks().values()]
        self.parts = [part for module in modules for part in module.modules()]
        self.slots = Slots(modules)
        self.state = {
            name: value.to(model.device, copy=True) for name, value in objective.state().items()
        }
        self.epoch = 1
        self.refused: str | None = None
        self.graphs: dict[Key, _Graph] = {}

    def __call__(self, *batch: Tensor, group: str | None = None) -> Tensor:
        """The loss per datum before the step, a scalar."""
        graph = self.prepare(*batch, group=group)
        return self._eager(batch, group) if graph is None else graph(batch, self.epoch)

    def prepare(self, *batch: Tensor, group: str | None = None) -> "_Graph | None":
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
                raise
            self.refused = str(error)
            log.warning("steps are not compiled: %s", error)
            return None

    def loss(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss per datum, and the objective's numbers for the next step."""
        objective = self.objective.at(self.epoch).with_state(self.state)
        programs = self.model.model, self.model.guide
        total, state = objective.loss_and_state(*programs, *batch)
        return total / len(batch[0]), state

    def _eager(self, batch: Sequence[Tensor], group: str | None) -> Tensor:
        self.optimizer.zero_grad()
        # Pyro's checks cost a third of a small model's step, and programs do not change.
        with pyro.validation_enabled(False):
            loss, state = self.loss(*batch)
        if not loss.isfinite():
            return loss.detach()
        loss.backward()
        if group is not None:
            # Adam steps what has a gradient; of others it leaves moments and count too.
            for name, parameter in self.parameters.items():
                if self.objective.group_of(name) != group:
                    parameter.grad = None
        self.optimizer.step()
        for name, number in state.items():  # in place: graphs hold these tensors
            self.state[name].copy_(number.detach())
        return loss.detach()

    def _graph(self, batch: Sequence[Tensor], group: str | None) -> "_Graph":
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
            self.graphs[key] = _Graph(self, batch, self._stepped(group))
        return self.graphs[key]

    def _stepped(self, group: str | None) -> list[str]:
        """The names of the optimizer's parameters that are trained, of a group."""
        groups = self.optimizer.param_groups
        known = {id(parameter) for given in groups for parameter in given["params"]}
        return [
            name
            for name, parameter in self.parameters.items()
            if (parameter.requires_grad and id(parameter) in known)
            and (group is None or self.objective.group_of(name) == group)
        ]


class _Graph:
    """The step for batches of one shape, recorded and compiled."""

    def __init__(self, step: Step, batch: Sequence[Tensor], names: Sequence[str]) -> None:
        self.step = step
        updates.check_optimizer(step.optimizer)
        self.slots = step.slots
        numbers = {id(tensor): number for number, tensor in enumerate(self.slots.tensors)}
        self.trained = [numbers[id(step.parameters[name])] for name in names]
        self.groups = _groups(step.optimizer, [step.parameters[name] for name in names])
        double: dict[str, Any] = {"dtype": torch.double, "device": step.model.device}
        self.epoch = torch.zeros((), **double)
        self.lrs = [torch.zeros((), **double) for _ in step.optimizer.param_groups]
        self.names, self.kept = sorted(step.state), step.optimizer.state
        for number in self.trained:
            parameter = self.slots.tensors[number]
            if not step.optimizer.state[parameter]:
                fresh = updates.initial_state(step.optimizer, parameter)
                step.optimizer.state[parameter].update(fresh)
        inputs = self._inputs(batch)
        self.inputs = [tensor.detach() for tensor in inputs]
        self.run: Function = compiled(record(self._step, inputs), inputs)

    def __call__(self, batch: Sequence[Tensor], epoch: int) -> Tensor:
        self.epoch.fill_(epoch)
        for lr, group in zip(self.lrs, self.step.optimizer.param_groups, strict=True):
            lr.fill_(group["lr"])
        loss: Tensor = self.run(*self.inputs[: -len(batch)], *batch)
        return loss

    def _inputs(self, batch: Sequence[Tensor]) -> list[Tensor]:
        kept = [
            value
            for number in self.trained
            for _, value in sorted(self.step.optimizer.state[self.slots.tensors[number]].items())
        ]
        numbers = [self.step.state[name] for name in self.names]
        return [*self.slots.tensors, *kept, *numbers, self.epoch, *self.lrs, *batch]

    def _step(self, *inputs: Tensor) -> Tensor:
        """What is recorded: all is read from the inputs, and what changes is written to them."""
        step, rest = self.step, list(inputs)
        tensors = [rest.pop(0) for _ in self.slots.tensors]
        kept = [
            {name: rest.pop(0) for name in sorted(step.optimizer.state[self.slots.tensors[number]])}
            for number in self.trained
        ]
        state = {name: rest.pop(0) for name in self.names}
        epoch, lrs = rest.pop(0), [rest.pop(0) for _ in self.lrs]
        with self.slots.holding(tensors):
            at: Any = step.objective.at  # schedules follow a tensor too
            objective: Objective = at(epoch).with_state(state)
            programs = step.model.model, step.model.guide
            total, new = objective.loss_and_state(*programs, *rest)
        loss = total / len(rest[0])
        own = [tensors[number] for number in self.trained]
        grads = torch.autograd.grad(loss, own, allow_unused=True)
        with torch.no_grad():
            changes = [(state[name], value) for name, value in new.items()]
            for parameter, grad, number, old in zip(own, grads, self.groups, kept, strict=True):
                if grad is not None:
                    group = step.optimizer.param_groups[number]
                    given = (group, lrs[number], parameter, grad, old)
                    value, moments = updates.updated(step.optimizer, *given)
                    changes += [(parameter, value)]
                    changes += [(old[name], moment) for name, moment in moments.items()]
            finite = loss.isfinite()
            for tensor, value in changes:
                tensor.copy_(torch.where(finite, value, tensor))
        return loss.detach()


def _constants(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """An optimizer's settings of a group, which are part of a graph."""
    return tuple([value for name, value in group.items() if name not in ("params", "lr")])


def _groups(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[int]:
    """The number of the optimizer's group of each parameter."""
    place = {
        id(parameter): number
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    return [place[id(parameter)] for parameter in parameters]


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
