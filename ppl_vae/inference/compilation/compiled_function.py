"""What evaluation computes again and again, as graphs of tensor operations."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.inference.compilation import allocator, private_torch
from ppl_vae.inference.compilation.capture import (
    Compile,
    Function,
    Key,
    Slots,
    compiled,
    record,
)
from ppl_vae.inference.compilation.private_torch import CannotCapture
from ppl_vae.shared.checks import check_compile

WORTH_COMPILING = 30.0
"""Seconds of eager evaluation, as `seconds` guesses, from which on compiling it is faster."""
SECONDS_PER_RUN, SECONDS_PER_MULTIPLY_ADD = 1e-3, 2e-11
"""Seconds that `seconds` counts for a run of a pair, and for each weight and row of data in it."""
MOST_PROGRAMS = 32
"""Number of compiled programs that a process keeps; the one that was not used longest goes."""
log = logging.getLogger(__name__)
programs: OrderedDict[str, Function] = OrderedDict()


class CompiledFunction:
    """A function of tensors that reads the weights of modules and needs no gradients by them.

    Compiled, it is recorded once for each shape of its arguments and each mode of the modules
    (training or evaluation), see `capture`. Weights and buffers are inputs of a
    graph like the arguments: those of the moment count. What else the function reads must stay as
    it is while this object is in use: each evaluation makes its own, so that a program that was
    changed since is recorded anew. Machine code is kept for the process, and found again by what
    was recorded.

    Args:
        function: Gives a tensor or a tuple of them. It changes no tensor that it is given.
        modules: What it reads weights of. Their tensors are changed in place, if at all.
        compile: True for compiled calls, False for eager ones, "auto" for compiled ones where that
            is possible: else a line of the log says what prevented it.

    Attributes:
        graphs: What was compiled, by what it was compiled for.
        refused: What prevented compiling, if something did.
    """

    def __init__(
        self, function: Callable[..., Any], modules: Sequence[nn.Module], *, compile: Compile
    ) -> None:
        allocator.retain_freed_memory()
        self.function, self.compile = function, compile
        self.parts = [part for module in modules for part in module.modules()]
        self.slots = Slots(modules)
        self.graphs: dict[Key, Function] = {}
        self.refused: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The function of these arguments; those that are no tensors are fixed in a graph.

        Raises:
            CannotCapture: a ValueError that says what prevents compiling, with `compile=True`.
        """
        graph = self._prepared(arguments)
        if graph is None:
            with torch.no_grad():
                return self.function(*arguments)
        return graph(*self.slots.tensors, *_inputs(arguments))

    def _prepared(self, arguments: Sequence[Any]) -> Function | None:
        """The graph for arguments like these, or None where calls are eager."""
        if self.compile is False or self.refused is not None:
            return None
        key = self._key(arguments)
        try:
            private_torch.check_available()
            if key not in self.graphs:
                self.graphs[key] = self._compiled(arguments)
        except CannotCapture as error:
            if self.compile is True:
                raise CannotCapture(
                    f"compile should be False or 'auto' here, was True: {error}"
                ) from error
            self.refused = str(error)
            log.warning("evaluation is not compiled: %s", error)
            return None
        return self.graphs[key]

    def _key(self, arguments: Sequence[Any]) -> Key:
        tensors = self.slots.tensors
        return (
            tuple([_kind(part) if isinstance(part, Tensor) else part for part in arguments]),
            tuple([part.training for part in self.parts]),
            tuple([(*_kind(tensor), tensor.stride(), tensor.data_ptr()) for tensor in tensors]),
        )

    def _compiled(self, arguments: Sequence[Any]) -> Function:
        weights = self.slots.tensors

        def program(*inputs: Tensor) -> Any:
            given = iter(inputs[len(weights) :])
            filled = [next(given) if isinstance(part, Tensor) else part for part in arguments]
            with self.slots.holding(inputs[: len(weights)]), torch.no_grad():
                return self.function(*filled)

        inputs = [*weights, *_inputs(arguments)]
        return _compiled_once(record(program, inputs), inputs)


def resolve_compile(compile: Compile, model: nn.Module, runs: int, rows: int) -> Compile:
    """Whether an evaluation is compiled: of "auto", False where it would not be worth it.

    It depends on the amount of work and not on a measurement, so that equal arguments give equal
    numbers: compiled and eager ones differ in the last digits.

    Args:
        compile: True, False or "auto".
        model: The pair.
        runs: How often it is run; where gradients are taken, a run counts for three.
        rows: Data in a run, one for each particle.

    Raises:
        ValueError: compile is something else.
    """
    check_compile(compile)
    if compile == "auto" and seconds(model, runs, rows) < WORTH_COMPILING:
        return False
    return compile


def seconds(model: nn.Module, runs: int, rows: int) -> float:
    """A guess of the time that these runs of a pair take, see `resolve_compile`."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    return runs * (SECONDS_PER_RUN + SECONDS_PER_MULTIPLY_ADD * rows * weights)


def _inputs(arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors among them; graphs are made for dense ones."""
    return [part.contiguous() for part in arguments if isinstance(part, Tensor)]


def _kind(tensor: Tensor) -> Key:
    return tensor.shape, tensor.dtype, tensor.device


def _compiled_once(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Function:
    """The graph as machine code, which a process makes once for graphs that are the same."""
    if any(True for _ in graph.children()):  # operations with graphs of their own
        return compiled(graph, inputs)
    name = _signature(graph, inputs)
    if name not in programs:
        programs[name] = compiled(graph, inputs)
    programs.move_to_end(name)
    if len(programs) > MOST_PROGRAMS:
        programs.popitem(last=False)
    return programs[name]


def _signature(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> str:
    """What makes a graph's machine code: operations, constants, inputs, threads."""
    kinds = [(*_kind(tensor), tensor.stride()) for tensor in inputs]
    found = hashlib.sha256(f"{graph.code} {kinds} {torch.get_num_threads()}".encode())
    for node in graph.graph.find_nodes(op="get_attr"):
        constant = getattr(graph, node.target).detach().cpu()
        found.update(f"{_kind(constant)}".encode())
        found.update(constant.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
