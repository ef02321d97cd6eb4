"""Capture of programs as graphs of tensor operations, and compilation of the graphs."""

import random
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.inference.compilation import onednn
from ppl_vae.inference.compilation.private_torch import CannotCapture, inductor, storage_id
from ppl_vae.inference.compilation.state_guard import StateGuard, record_reads

Compile: TypeAlias = Literal["auto"] | bool
Key: TypeAlias = tuple[Any, ...]
Function = Callable[..., Any]
SavedBuffer = tuple[dict[str, Tensor | None], str, Tensor, Tensor]


REASONS = {
    "DataDependent": "has data-dependent control flow (reads a tensor's value)",
    ".numpy() is not supported": "reads a tensor's values as a NumPy array",
    "Please convert all Tensors": "uses a tensor that is not a parameter, buffer or argument",
}
"""Descriptions of torch's errors, by a part of their text."""


class ModuleTensors:
    """The parameters and buffers of modules, which can be temporarily replaced by other tensors.

    Attributes:
        parts: All submodules.
        tensors: Each tensor once, parameters first.
        buffers: The buffers among them.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self.parts = parts
        self.places: list[tuple[dict[str, Tensor | None], str, int]] = []
        numbers: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        for attribute in ("_parameters", "_buffers"):
            n_parameters = len(self.tensors)
            for part in parts:
                holder: dict[str, Tensor | None] = getattr(part, attribute)
                for name, tensor in holder.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in numbers:
                        numbers[id(tensor)] = len(self.tensors)
                        self.tensors.append(tensor)
                    self.places.append((holder, name, numbers[id(tensor)]))
        self.buffers = self.tensors[n_parameters:]

    def saved_buffers(self) -> list[SavedBuffer]:
        """Return the modules' current buffers with copies of their values, for `restore`."""
        n_parameters = len(self.tensors) - len(self.buffers)
        places = [(holder, name) for holder, name, number in self.places if number >= n_parameters]
        current = [(holder, name, holder[name]) for holder, name in places]
        return [(holder, name, b, b.clone()) for holder, name, b in current if b is not None]

    def restore(self, saved: Sequence[SavedBuffer]) -> None:
        """Restore saved buffers and their values, also where a buffer was replaced."""
        for holder, name, buffer, value in saved:
            holder[name] = buffer
            buffer.copy_(value)

    @contextmanager
    def using(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Replace the modules' tensors inside the context; buffers given are written in place.

        Raises:
            CannotCapture: The program changed a module's Python state.
        """
        guard = StateGuard(self.parts, self.tensors)
        before = [dict(vars(part)) for part in self.parts]
        memory = [storage_id(tensor) for tensor in tensors]
        try:
            for holder, name, number in self.places:
                holder[name] = tensors[number]
            yield
            for holder, name, number in self.places:
                new = holder[name]
                if new is not None and new is not tensors[number]:  # a buffer that was replaced
                    with torch.no_grad():
                        tensors[number].copy_(new)
                if storage_id(tensors[number]) != memory[number]:
                    raise CannotCapture(
                        f"the program sets the .data of {name!r}, which a compiled one would not"
                    )
        finally:
            for holder, name, number in self.places:
                holder[name] = self.tensors[number]
            changed = guard.changed() or self._new_tensor(before)
            for part, attributes in zip(self.parts, before, strict=True):
                vars(part).clear()
                vars(part).update(attributes)
        if changed is not None:
            raise _changes(changed)

    def _new_tensor(self, before: Sequence[Mapping[str, Any]]) -> str | None:
        """Describe the first tensor in a new attribute of a module, or return None."""
        for part, attributes in zip(self.parts, before, strict=True):
            for name, value in vars(part).items():
                if name not in attributes and isinstance(value, Tensor):
                    return f"{name!r} of {type(part).__name__}"
        return None


def capture(
    function: Function, inputs: Sequence[Tensor], guard: StateGuard | None = None
) -> torch.fx.GraphModule:
    """Capture the tensor operations of a function; random draws remain random.

    Args:
        function: The function.
        inputs: Examples of its arguments.
        guard: Guard of the Python state that the function reads. Global variables of the user's
            files are added to it.

    Raises:
        CannotCapture: The function has data-dependent control flow, uses a tensor that is not an
            input, changes Python state, reads a clock, or uses a foreign random number generator.
    """
    guard = StateGuard([], []) if guard is None else guard
    before = _foreign_random_state()
    try:
        # In "fake" mode tensors have no values, so none can be read and become a constant.
        with torch.enable_grad(), pyro.validation_enabled(False), record_reads(guard) as calls:
            graph = make_fx(function, tracing_mode="fake")(*inputs)
    except CannotCapture:
        raise
    except Exception as error:
        raise CannotCapture(_reason(error)) from error
    if _foreign_random_state() != before:
        raise CannotCapture("the program uses Python's or NumPy's random number generators")
    if calls.refused is not None:
        raise CannotCapture(
            f"the program {calls.refused}, whose result would be a constant of the compiled one"
        )
    changed = guard.changed()
    if changed is not None:
        raise _changes(changed)
    return graph


def compile_graph(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Function:
    """Compile a graph to machine code with the same random numbers and in-place writes.

    Raises:
        CannotCapture: The graph cannot be compiled, for example without a C++ compiler.
    """
    # Kernels are called from C++: calls from Python take a sixteenth of a small model's step.
    on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
    options: dict[str, Any] = {"fallback_random": True, "cpp_wrapper": on_cpu}
    examples: list[Any] = [tensor.detach() for tensor in inputs]
    try:
        if torch.backends.mkldnn.is_available():
            options["post_grad_custom_post_pass"] = onednn.products_pass()
        with torch.no_grad(), warnings.catch_warnings(), onednn.callable_from_graphs():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
            run = inductor().compile(graph, examples, options=options)
    except Exception as error:
        raise CannotCapture(_reason(error)) from error

    def without_gradients(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return run(*inputs)

    return without_gradients


def _foreign_random_state() -> tuple[Any, ...]:
    """Return the state of Python's and NumPy's generators, whose numbers would be constants."""
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (what a program may use)
    return random.getstate(), legacy["key"].tobytes(), legacy["pos"]


def _changes(changed: str) -> CannotCapture:
    return CannotCapture(f"the program changes {changed}, which a compiled one would not")


def _reason(error: Exception) -> str:
    """Describe in one line what prevented a capture, with the line of the program."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if "/torch/" not in f.filename and "/pyro/" not in f.filename]
    place = f" ({outside[-1].filename}:{outside[-1].lineno}: {outside[-1].line})" if outside else ""
    text = str(error).strip().partition("\n")[0]
    for sign, words in REASONS.items():
        if sign in f"{type(error).__name__}: {text}":
            return f"the program {words}{place}"
    return f"{type(error).__name__}: {text}{place}"
