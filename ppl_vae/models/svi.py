"""Registration of a module's parameters in Pyro's parameter store, for Pyro's own `SVI`."""

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pyro

# Private, and the only way to know that SVI collects parameters: Pyro has no public access to the
# active handlers. tests/models/test_svi.py fails if a release of Pyro renames or empties it.
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_counter = itertools.count()


def registering_parameters(program: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method `model` or `guide` so that it first registers its module's parameters."""

    @functools.wraps(program)
    def wrapped(self: nn.Module, *data: Any, **kwargs: Any) -> None:
        register_parameters(self)
        return program(self, *data, **kwargs)

    return wrapped


def register_parameters(module: nn.Module) -> None:
    """Register the parameters of a module with Pyro if SVI is collecting parameters.

    SVI trains the `pyro.param` sites that it collects with `trace(param_only=True)`. The names are
    unique to the instance: with the usual `pyro.module("name", self)` every instance of a class
    would share the parameters of the first.
    """
    if not any(isinstance(h, TraceMessenger) and h.param_only for h in _PYRO_STACK):
        return
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_counter)}"
        weakref.finalize(module, _forget, _names[module])
    store = pyro.get_param_store()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            full_name = f"{_names[module]}.{name}"
            if full_name in store and store[full_name] is not parameter:
                del store[full_name]  # a network was replaced since the last step
            pyro.param(full_name, parameter)


def _forget(prefix: str) -> None:
    store = pyro.get_param_store()
    for name in [name for name in store.keys() if name.startswith(f"{prefix}.")]:  # noqa: SIM118
        del store[name]
