"""Compiled functions for evaluation."""

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
    ModuleTensors,
    capture,
    compile_graph,
)
from ppl_vae.inference.compilation.private_torch import CannotCapture
from ppl_vae.shared.checks import check_compile

MIN_SECONDS_TO_COMPILE = 30.0
"""Eager evaluations of this many seconds or more, by `estimated_seconds`, are compiled."""
SECONDS_PER_RUN, SECONDS_PER_MULTIPLY_ADD = 1e-3, 2e-11
"""Estimated seconds of a run of model and guide, and of each weight and row of data in it."""
MAX_PROGRAMS = 32
"""Maximum number of compiled programs in memory; the least recently used one is dropped."""
log = logging.getLogger(__name__)
programs: OrderedDict[str, Function] = OrderedDict()


class CompiledFunction:
    """A function of tensors and of the weights of modules, without gradients.

    If compiled, it is captured once for each shape of its arguments and each mode of the modules
    (training or evaluation), see `capture`. Weights and buffers are inputs of the graph, so that
    their current values are used. All else that the function reads must not change while this
    object is in use: each evaluation makes its own, which captures the program again. Machine code
    is cached in the process by the captured graph.

    Args:
        function: The function. It returns a tensor or a tuple of tensors and changes no argument.
        modules: The modules whose weights it reads. Their tensors may change in place.
        compile: True for compiled calls, False for eager ones, "auto" for compiled ones where that
            is possible; otherwise a warning in the log says what prevented it.

    Attributes:
        graphs: The compiled graphs, by shapes and modes.
        refused: What prevented compilation, or None.
    """

    def __init__(
        self, function: Callable[..., Any], modules: Sequence[nn.Module], *, compile: Compile
    ) -> None:
        allocator.retain_freed_memory()
        self.function, self.compile = function, compile
        self.parts = [part for module in modules for part in module.modules()]
        self.modules = ModuleTensors(modules)
        self.graphs: dict[Key, Function] = {}
        self.refused: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; arguments that are not tensors are constants of a graph.

        Raises:
            CannotCapture: A ValueError that says what prevents compilation, with `compile=True`.
        """
        graph = self._graph(arguments)
        if graph is None:
            with torch.no_grad():
                return self.function(*arguments)
        return graph(*self.modules.tensors, *_inputs(arguments))

    def _graph(self, arguments: Sequence[Any]) -> Function | None:
        """Return the graph for arguments like these, or None where calls are eager."""
        if self.compile is False or self.refused is not None:
            return None
        key = self._key(arguments)
        try:
            private_torch.check_available()
            if key not in self.graphs:
                self.graphs[key] = self._capture(arguments)
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
        tensors = self.modules.tensors
        return (
            tuple([_kind(part) if isinstance(part, Tensor) else part for part in arguments]),
            tuple([part.training for part in self.parts]),
            tuple([(*_kind(tensor), tensor.stride(), tensor.data_ptr()) for tensor in tensors]),
        )

    def _capture(self, arguments: Sequence[Any]) -> Function:
        weights = self.modules.tensors

        def program(*inputs: Tensor) -> Any:
            tensors = iter(inputs[len(weights) :])
            filled = [next(tensors) if isinstance(part, Tensor) else part for part in arguments]
            with self.modules.using(inputs[: len(weights)]), torch.no_grad():
                return self.function(*filled)

        inputs = [*weights, *_inputs(arguments)]
        return _compile_cached(capture(program, inputs), inputs)


def resolve_compile(compile: Compile, model: nn.Module, runs: int, rows: int) -> Compile:
    """Resolve `compile="auto"` of an evaluation to False where compilation would not pay off.

    The decision depends on the amount of work and not on a measurement, so that equal arguments
    give equal numbers: compiled and eager results differ in the last digits.

    Args:
        compile: True, False or "auto".
        model: The model/guide pair.
        runs: Number of runs of the pair; a run with gradients counts as three.
        rows: Number of rows in a run: data times particles.

    Raises:
        ValueError: `compile` is invalid.
    """
    check_compile(compile)
    if compile == "auto" and estimated_seconds(model, runs, rows) < MIN_SECONDS_TO_COMPILE:
        return False
    return compile


def estimated_seconds(model: nn.Module, runs: int, rows: int) -> float:
    """Estimate the time of these runs of a pair, see `resolve_compile`."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    return runs * (SECONDS_PER_RUN + SECONDS_PER_MULTIPLY_ADD * rows * weights)


def _inputs(arguments: Sequence[Any]) -> list[Tensor]:
    """Return the tensors among the arguments, contiguous, as graphs expect."""
    return [part.contiguous() for part in arguments if isinstance(part, Tensor)]


def _kind(tensor: Tensor) -> Key:
    return tensor.shape, tensor.dtype, tensor.device


def _compile_cached(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Function:
    """Compile a graph, or return the machine code of an equal graph."""
    if any(True for _ in graph.children()):  # operations with graphs of their own
        return compile_graph(graph, inputs)
    name = _signature(graph, inputs)
    if name not in programs:
        programs[name] = compile_graph(graph, inputs)
    programs.move_to_end(name)
    if len(programs) > MAX_PROGRAMS:
        programs.popitem(last=False)
    return programs[name]


def _signature(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> str:
    """Return a hash of all that determines a graph's machine code."""
    kinds = [(*_kind(tensor), tensor.stride()) for tensor in inputs]
    signature = hashlib.sha256(f"{graph.code} {kinds} {torch.get_num_threads()}".encode())
    for node in graph.graph.find_nodes(op="get_attr"):
        constant = getattr(graph, node.target).detach().cpu()
        signature.update(f"{_kind(constant)}".encode())
        signature.update(constant.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return signature.hexdigest()
