"""What a graph holds as it was: numbers, lists, hooks and variables that a program reads."""

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

LARGE = 2**20
"""Bytes of a NumPy array from which on it counts by its identity, and not by its content."""
LONG = 1000
"""Length of a list from which on what it holds is not looked into."""
DEEP = 8
"""How many objects and containers inside of one another are looked into."""
CLOCKS = {time.time, time.time_ns, time.monotonic, time.perf_counter, time.process_time}
SEEDS = (torch.random.manual_seed, torch.random.get_rng_state, torch.random.set_rng_state)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
CONTAINERS = ("_parameters", "_buffers", "_modules", *HOOKS)
"""What a module holds in dictionaries, which are never replaced themselves."""
OTHERS = sys.stdlib_module_names | {"torch", "pyro", "numpy", "ppl_vae"}
"""Packages whose variables are constants."""


class Place(NamedTuple):
    """Values that somebody holds, and how they are read again."""

    holder: str
    names: Sequence[Any]
    values: Sequence[Any]
    read: Callable[[], Sequence[Any]]


class StateGuard:
    """What objects hold beside the tensors of their modules, as it is now.

    Looked into are attributes, hooks, lists, dictionaries, what functions close over, and objects
    inside of these. What changes in place counts by its content: NumPy arrays, generators of random
    numbers, and scalar tensors, which a graph would take for numbers.

    Args:
        objects: Modules and others; those that are replaced count as changed.
        tensors: Which a graph reads anew.
    """

    def __init__(self, objects: Sequence[object], tensors: Sequence[Tensor]) -> None:
        self.places: list[Place] = []
        self.values: list[Any] = []
        self.empty: list[Any] = []
        self.contents: list[tuple[str, Any, Any]] = []
        self.known = {id(tensor) for tensor in tensors}
        self.variables: set[tuple[int, str]] = set()
        for part in objects:
            self._look_into(type(part).__name__, part, 0)

    def add_variables(self, variables: Mapping[str, Any], names: Sequence[str]) -> None:
        """Counts variables of a file too, by the names that a function uses."""
        kinds = FunctionType | ModuleType | type | nn.Module | None
        new = [name for name in names if (id(variables), name) not in self.variables]
        self.variables.update((id(variables), name) for name in new)
        own = [name for name in new if not isinstance(variables.get(name), kinds)]
        if own:
            where = f"file {variables.get('__name__')}"
            self._add(where, own, lambda: list(map(variables.get, own)), DEEP - 2)

    def changed(self) -> str | None:
        """The first thing that is not what it was, in words, or None."""
        # In one go, for it is asked before every step; most often all is as it was.
        values = list(chain.from_iterable([place.read() for place in self.places]))
        if len(values) != len(self.values) or any(map(is_not, values, self.values)):
            for place in self.places:
                now = place.read()
                was = zip(place.names, place.values, strict=True)
                for number, (name, value) in enumerate(was):
                    if number >= len(now) or not _same(now[number], value):
                        return f"{name!r} of its {place.holder}"
        if any(self.empty):
            return f"what a {type(next(filter(None, self.empty))).__name__} of it holds"
        for what, value, content in self.contents:
            if _content(value) != content:
                return what
        return None

    def _look_into(self, holder: str, value: Any, depth: int) -> None:
        if id(value) in self.known or depth > DEEP:
            return
        content = _content(value)
        if content is not None:
            self.known.add(id(value))
            self.contents.append((holder, value, content))
            return
        found = _held(value)
        if found is None:
            return
        self.known.add(id(value))
        names, read = found
        for container in (vars(value)[name] for name in CONTAINERS if isinstance(value, nn.Module)):
            self._look_into(type(value).__name__, container, depth + 1)
        if not names and isinstance(value, dict | list):
            self.empty.append(value)
        elif 0 < len(names) < LONG:
            own = holder if isinstance(value, dict | list | tuple | set) else type(value).__name__
            self._add(own, names, read, depth)

    def _add(
        self, holder: str, names: Sequence[Any], read: Callable[[], Sequence[Any]], depth: int
    ) -> None:
        values = read()
        if not isinstance(values, tuple):  # which stays as it is
            self.places.append(Place(holder, names, values, read))
            self.values.extend(values)
        for name, value in zip(names, values, strict=True):
            inner = f"{name!r} of its {holder}" if _content(value) is not None else holder
            self._look_into(inner, value, depth + 1)


def _held(value: Any) -> tuple[Sequence[Any], Callable[[], Sequence[Any]]] | None:
    """The names of what an object or a container holds, and what reads it; None of others."""
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
    module = isinstance(value, nn.Module | Configurable)
    opened = module or isinstance(value, ELBO) or _of_a_user(type(value).__module__)
    if not opened or isinstance(value, type | Tensor) or not hasattr(value, "__dict__"):
        return None
    held = vars(value)
    others = {*vars(nn.Module()), "arguments"} if module else ()
    names = [name for name in held if name not in others]
    return names, lambda: list(map(held.get, names))


def _content(value: Any) -> Any:
    """What an object that changes in place holds, or None of others."""
    if isinstance(value, np.ndarray) and value.nbytes < LARGE and value.dtype != object:
        return zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, Tensor) and value.dim() == 0 and value.device.type == "cpu":
        with disable_current_modes():
            return repr(value.item()) if type(value) is Tensor else None  # NaN too is itself
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    return value.getstate() if isinstance(value, random.Random) else None


def _same(now: Any, before: Any) -> bool:
    """Whether it is the same object, or the same number or text."""
    if now is before:
        return True
    plain = isinstance(now, bool | int | float | complex | str | bytes)
    return plain and type(now) is type(before) and bool(now == before)


class Calls:
    """What is called meanwhile: functions whose variables count, clocks, states of generators.

    Args:
        frozen: What the variables of users' files are added to.

    Attributes:
        refused: The first call whose result a graph would freeze, in words.
    """

    def __init__(self, frozen: StateGuard) -> None:
        self.frozen = frozen
        self.refused: str | None = None
        self.codes: set[CodeType] = set()
        self.seeds = {function.__code__: function.__name__ for function in SEEDS}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            if arg in CLOCKS and _of_a_user(str(frame.f_globals.get("__name__"))):
                self.refused = self.refused or f"calls time.{arg.__name__}"
        elif event == "call" and frame.f_code not in self.codes:
            code = frame.f_code
            self.codes.add(code)
            if code in self.seeds:
                self.refused = self.refused or (
                    f"calls torch.{self.seeds[code]} (as torch.utils.checkpoint does, unless "
                    "preserve_rng_state=False)"
                )
            if _of_a_user(str(frame.f_globals.get("__name__"))):
                self.frozen.add_variables(frame.f_globals, code.co_names)


def _of_a_user(module: str) -> bool:
    """Whether a module is no part of a package that was installed."""
    package, found = module.partition(".")[0], sys.modules.get(module)
    installed = "site-packages" in str(getattr(found, "__file__", ""))
    return not installed and package not in OTHERS


@contextmanager
def record_reads(frozen: StateGuard) -> Iterator[Calls]:
    """Notes the calls inside; not under a profiler, of which Python has one at a time."""
    calls = Calls(frozen)
    if sys.getprofile() is not None:
        yield calls
        return
    sys.setprofile(calls)
    try:
        yield calls
    finally:
        sys.setprofile(None)
