"""Programs as graphs of tensor operations: recorded once, compiled, replayed."""

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
from ppl_vae.inference.compilation.frozen_state import StateGuard, record_reads
from ppl_vae.inference.compilation.private_torch import CannotCapture, inductor, storage_id

Compile: TypeAlias = Literal["auto"] | bool
Key: TypeAlias = tuple[Any, ...]
Function = Callable[..., Any]
Saved = tuple[dict[str, Tensor | None], str, Tensor, Tensor]


REASONS = {
    "DataDependent": "looks at a value",
    ".numpy() is not supported": "looks at values, as a NumPy array",
    "Please convert all Tensors": "uses a tensor that is no parameter, buffer or argument",
}
"""What torch's errors mean for a program."""


class Slots:
    """The tensors of modules, parameters and buffers, which can be exchanged for others.

    Attributes:
        tensors: Each tensor once, parameters first.
        buffers: Those that are no parameters.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self.parts = parts
        self.places: list[tuple[dict[str, Tensor | None], str, int]] = []
        found: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        for holder in ("_parameters", "_buffers"):
            parameters = len(self.tensors)
            for part in parts:
                held: dict[str, Tensor | None] = getattr(part, holder)
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in found:
                        found[id(tensor)] = len(self.tensors)
                        self.tensors.append(tensor)
                    self.places.append((held, name, found[id(tensor)]))
        self.buffers = self.tensors[parameters:]

    def saved_buffers(self) -> list[Saved]:
        """Each buffer that the modules have, with a copy of it, for `restore`."""
        first = len(self.tensors) - len(self.buffers)
        places = [(held, name) for held, name, number in self.places if number >= first]
        there = [(held, name, held[name]) for held, name in places]
        return [(held, name, b, b.clone()) for held, name, b in there if b is not None]

    def restore(self, saved: Sequence[Saved]) -> None:
        """The buffers are what they were, also those that were exchanged for others."""
        for held, name, buffer, value in saved:
            held[name] = buffer
            buffer.copy_(value)

    @contextmanager
    def holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """The modules have these tensors; what they write to buffers is written to them.

        Raises:
            CannotCapture: meanwhile a module counted or kept something: a graph would not.
        """
        frozen, before = (
            StateGuard(self.parts, self.tensors),
            [dict(vars(part)) for part in self.parts],
        )
        memory = [storage_id(tensor) for tensor in tensors]
        try:
            for held, name, number in self.places:
                held[name] = tensors[number]
            yield
            for held, name, number in self.places:
                new = held[name]
                if new is not None and new is not tensors[number]:  # a buffer that was replaced
                    with torch.no_grad():
                        tensors[number].copy_(new)
                if storage_id(tensors[number]) != memory[number]:
                    raise CannotCapture(
                        f"the program sets the .data of {name!r}, which a graph would not"
                    )
        finally:
            for held, name, number in self.places:
                held[name] = self.tensors[number]
            changed = frozen.changed() or self._kept(before)
            for part, attributes in zip(self.parts, before, strict=True):
                vars(part).clear()
                vars(part).update(attributes)
        if changed is not None:
            raise CannotCapture(f"the program changes {changed}, which a graph would freeze")

    def _kept(self, before: Sequence[Mapping[str, Any]]) -> str | None:
        """A tensor that a module has in a new attribute."""
        for part, attributes in zip(self.parts, before, strict=True):
            for name, value in vars(part).items():
                if name not in attributes and isinstance(value, Tensor):
                    return f"{name!r} of its {type(part).__name__}"
        return None


def record(
    function: Function, inputs: Sequence[Tensor], frozen: StateGuard | None = None
) -> torch.fx.GraphModule:
    """The tensor operations of `function` on inputs like these, random draws as draws.

    Args:
        function: What is recorded.
        inputs: Its arguments.
        frozen: What else it reads, which is to stay as it is; variables of files are added to it.

    Raises:
        CannotCapture: the function looks at a value, uses a tensor that is not among its inputs,
            changes what is frozen, asks for the time, or draws from other random numbers.
    """
    frozen = StateGuard([], []) if frozen is None else frozen
    before = _foreign_random_state()
    try:
        # In "fake" mode tensors have no values, so that none can be looked at and frozen.
        with torch.enable_grad(), pyro.validation_enabled(False), record_reads(frozen) as calls:
            graph = make_fx(function, tracing_mode="fake")(*inputs)
    except CannotCapture:
        raise
    except Exception as error:
        raise CannotCapture(_reason(error)) from error
    if _foreign_random_state() != before:
        raise CannotCapture("the program draws from Python's or NumPy's random numbers")
    if calls.refused is not None:
        raise CannotCapture(f"the program {calls.refused}, which a graph would freeze")
    changed = frozen.changed()
    if changed is not None:
        raise CannotCapture(f"the program changes {changed}, which a graph would freeze")
    return graph


def compiled(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Function:
    """The graph as machine code, which writes to its inputs what the graph writes.

    Random numbers are those that the operations would draw one by one.

    Raises:
        CannotCapture: it cannot be compiled, for want of a compiler of C++ say.
    """
    # Kernels are called from C++: from Python, the calls are a sixteenth of a small model's step.
    on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
    options: dict[str, Any] = {"fallback_random": True, "cpp_wrapper": on_cpu}
    given: list[Any] = [tensor.detach() for tensor in inputs]
    try:
        if torch.backends.mkldnn.is_available():
            options["post_grad_custom_post_pass"] = onednn.products_pass()
        with torch.no_grad(), warnings.catch_warnings(), onednn.callable_from_graphs():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its parts
            run = inductor().compile(graph, given, options=options)
    except Exception as error:
        raise CannotCapture(_reason(error)) from error

    def without_gradients(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return run(*inputs)

    return without_gradients


def _foreign_random_state() -> tuple[Any, ...]:
    """The state of random numbers that are not torch's, which a graph would freeze."""
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (what a program may use)
    return random.getstate(), legacy["key"].tobytes(), legacy["pos"]


def _reason(error: Exception) -> str:
    """What prevented a capture, in a line: the operation, and where in the program it was."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if "/torch/" not in f.filename and "/pyro/" not in f.filename]
    place = f" ({outside[-1].filename}:{outside[-1].lineno}: {outside[-1].line})" if outside else ""
    text = str(error).strip().partition("\n")[0]
    for sign, words in REASONS.items():
        if sign in f"{type(error).__name__}: {text}":
            return f"the program {words}{place}"
    return f"{type(error).__name__}: {text}{place}"
