"""The parameters of a module in Pyro's parameter store, for Pyro's own `SVI`."""

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


_counter = itertools.count()


def _shown_to_svi(program: Callable[..., None]) -> Callable[..., None]:
    """`program`, which shows its module's parameters to Pyro's SVI before it runs."""

    @functools.wraps(program)
    def shown(self: nn.Module, *data: Any, **kwargs: Any) -> None:
        show_parameters(self)
        return program(self, *data, **kwargs)

    return shown


def show_parameters(module: nn.Module) -> None:
    """Shows Pyro's SVI the parameters of a module, if it looks, by names of the instance's own.

    SVI trains what `pyro.param` shows it while it listens with `trace(param_only=True)`. The usual
    `pyro.module("name", self)` in a model makes every instance share the first one's parameters.
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
