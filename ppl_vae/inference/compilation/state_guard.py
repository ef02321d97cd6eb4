"""Detection of changes to the Python state that a compiled program holds as constants.

A program reads tensors, its module's parameters and buffers, and nothing else that changes; it
writes to buffers alone. Everything else that it reads becomes a constant of the compiled program:
attributes, hooks, lists, dictionaries, objects inside of these, variables that functions close
over, and global variables of the user's files. A change of these after compilation is detected
before the next step (`svi_step`) or the next epoch (`fit`). Steps then run eagerly and a warning
names the change; with `compile=True` it is an error.

Not detected:
    Changes of global variables of installed packages.
    NumPy arrays of 1 MB or more that change in place.
    Changes inside of lists, dictionaries and other containers of 1000 items or more.
    Changes more than 8 objects deep.
    A method that is replaced on an instance, and other new attributes.
"""

import functools
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import is_not
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from ppl_vae.inference.compilation.private_torch import disable_current_modes
from ppl_vae.shared.arguments import Configurable

ARRAY_LIMIT = 2**20
"""NumPy arrays of this many bytes are compared by identity, smaller ones by content."""
LENGTH_LIMIT = 1000
"""Containers of this many items are not inspected."""
MAX_DEPTH = 8
"""Maximum nesting of the objects and containers that are inspected."""
CLOCKS = {time.time, time.time_ns, time.monotonic, time.perf_counter, time.process_time}
SEEDS = (torch.random.manual_seed, torch.random.get_rng_state, torch.random.set_rng_state)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
CONTAINERS = ("_parameters", "_buffers", "_modules", *HOOKS)
"""Dictionaries of a module, which are changed but never replaced."""
CONSTANT_PACKAGES = sys.stdlib_module_names | {"torch", "pyro", "numpy", "ppl_vae"}
"""Packages whose variables are taken for constants."""


class Watched(NamedTuple):
    """The values of an object or container, and a function that reads them again."""

    holder: str
    names: Sequence[Any]
    values: Sequence[Any]
    read: Callable[[], Sequence[Any]]


class StateGuard:
    """A record of the Python state of objects, which detects changes of it.

    Numbers and texts are compared by value, NumPy arrays, random number generators and scalar
    tensors by content (they change in place), other objects by identity.

    Args:
        objects: Modules and other objects. Replacing one counts as a change.
        tensors: Inputs of the graph, which may change.
    """

    def __init__(self, objects: Sequence[object], tensors: Sequence[Tensor]) -> None:
        self.watched: list[Watched] = []
        self.values: list[Any] = []
        self.empty: list[Any] = []
        self.contents: list[tuple[str, Any, Any]] = []
        self.known = {id(tensor) for tensor in tensors}
        self.variables: set[tuple[int, str]] = set()
        for part in objects:
            self._inspect(type(part).__name__, part, 0)

    def add_variables(self, variables: Mapping[str, Any], names: Sequence[str]) -> None:
        """Add the global variables of a file that a function uses, by their names."""
        kinds = FunctionType | ModuleType | type | nn.Module | None
        new = [name for name in names if (id(variables), name) not in self.variables]
        self.variables.update((id(variables), name) for name in new)
        values = [name for name in new if not isinstance(variables.get(name), kinds)]
        if values:
            holder = f"module {variables.get('__name__')}"
            self._watch(holder, values, lambda: list(map(variables.get, values)), MAX_DEPTH - 2)

    def changed(self) -> str | None:
        """Describe the first value that has changed, or return None."""
        # All at once first: this runs before every step, and most often nothing has changed.
        values = list(chain.from_iterable([watched.read() for watched in self.watched]))
        if len(values) != len(self.values) or any(map(is_not, values, self.values)):
            for watched in self.watched:
                now = watched.read()
                before = zip(watched.names, watched.values, strict=True)
                for number, (name, value) in enumerate(before):
                    if number >= len(now) or not _is_same(now[number], value):
                        return f"{name!r} of {watched.holder}"
        if any(self.empty):
            return f"an empty {type(next(filter(None, self.empty))).__name__}"
        for description, value, content in self.contents:
            if _content(value) != content:
                return description
        return None

    def _inspect(self, holder: str, value: Any, depth: int) -> None:
        if id(value) in self.known or depth > MAX_DEPTH:
            return
        content = _content(value)
        if content is not None:
            self.known.add(id(value))
            self.contents.append((holder, value, content))
            return
        members = _members(value)
        if members is None:
            return
        self.known.add(id(value))
        names, read = members
        for container in (vars(value)[name] for name in CONTAINERS if isinstance(value, nn.Module)):
            self._inspect(type(value).__name__, container, depth + 1)
        if not names and isinstance(value, dict | list):
            self.empty.append(value)
        elif 0 < len(names) < LENGTH_LIMIT:
            is_container = isinstance(value, dict | list | tuple | set)
            self._watch(holder if is_container else type(value).__name__, names, read, depth)

    def _watch(
        self, holder: str, names: Sequence[Any], read: Callable[[], Sequence[Any]], depth: int
    ) -> None:
        values = read()
        if not isinstance(values, tuple):  # tuples cannot change
            self.watched.append(Watched(holder, names, values, read))
            self.values.extend(values)
        for name, value in zip(names, values, strict=True):
            inner = f"{name!r} of {holder}" if _content(value) is not None else holder
            self._inspect(inner, value, depth + 1)


def _members(value: Any) -> tuple[Sequence[Any], Callable[[], Sequence[Any]]] | None:
    """Return the names of an object's or container's members and a function that reads them.

    None for other values.
    """
    if isinstance(value, dict):
        return list(value), lambda: list(value.values())
    if isinstance(value, tuple):
        return range(len(value)), lambda: value
    if isinstance(value, list | set):
        return range(len(value)), lambda: list(value)
    if isinstance(value, functools.partial):
        return ("func", "args", "keywords"), lambda: [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return ("function", "object"), lambda: [value.__func__, value.__self__]
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return (
            value.__code__.co_freevars,
            lambda: [getattr(cell, "cell_contents", None) for cell in cells],
        )
    known = isinstance(value, nn.Module | Configurable | ELBO)
    inspected = known or _is_user_code(type(value).__module__)
    if not inspected or isinstance(value, type | Tensor) or not hasattr(value, "__dict__"):
        return None
    held = vars(value)
    is_module = isinstance(value, nn.Module | Configurable)
    excluded = {*vars(nn.Module()), "arguments"} if is_module else ()
    names = [name for name in held if name not in excluded]
    return names, lambda: list(map(held.get, names))


def _content(value: Any) -> Any:
    """Return the content of an object that changes in place, or None for other objects."""
    if isinstance(value, np.ndarray) and value.nbytes < ARRAY_LIMIT and value.dtype != object:
        return zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, Tensor) and value.dim() == 0 and value.device.type == "cpu":
        with disable_current_modes():
            return repr(value.item()) if type(value) is Tensor else None  # as text, NaN equals NaN
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    return value.getstate() if isinstance(value, random.Random) else None


def _is_same(now: Any, before: Any) -> bool:
    """Return whether two values are the same object, or equal numbers or texts."""
    if now is before:
        return True
    plain = isinstance(now, bool | int | float | complex | str | bytes)
    return plain and type(now) is type(before) and bool(now == before)


class CallRecorder:
    """A profiler that adds the global variables of called functions to a guard.

    Args:
        guard: The guard.

    Attributes:
        refused: The first call that cannot be captured (a clock, a seed), in words, or None.
    """

    def __init__(self, guard: StateGuard) -> None:
        self.guard = guard
        self.refused: str | None = None
        self.codes: set[CodeType] = set()
        self.seeds = {function.__code__: function.__name__ for function in SEEDS}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            if arg in CLOCKS and _is_user_code(str(frame.f_globals.get("__name__"))):
                self.refused = self.refused or f"calls time.{arg.__name__}"
        elif event == "call" and frame.f_code not in self.codes:
            code = frame.f_code
            self.codes.add(code)
            if code in self.seeds:
                self.refused = self.refused or (
                    f"calls torch.{self.seeds[code]} (as torch.utils.checkpoint does, unless "
                    "preserve_rng_state=False)"
                )
            if _is_user_code(str(frame.f_globals.get("__name__"))):
                self.guard.add_variables(frame.f_globals, code.co_names)


def _is_user_code(module: str) -> bool:
    """Return whether a module does not belong to an installed package."""
    package, loaded = module.partition(".")[0], sys.modules.get(module)
    installed = "site-packages" in str(getattr(loaded, "__file__", ""))
    return not installed and package not in CONSTANT_PACKAGES


@contextmanager
def record_reads(guard: StateGuard) -> Iterator[CallRecorder]:
    """Record the calls inside the context, unless a profiler is active: Python allows only one."""
    calls = CallRecorder(guard)
    if sys.getprofile() is not None:
        yield calls
        return
    sys.setprofile(calls)
    try:
        yield calls
    finally:
        sys.setprofile(None)
