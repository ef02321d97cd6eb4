"""Private names of torch that the package uses, all of them, and what happens without them.

A release of torch may rename or remove them. Training and evaluation then run eagerly: with
`compile="auto"` a warning names what is missing, with `compile=True` it is an error. Only training
by several processes needs `TorchDispatchMode`. Each name has a test.
"""

from contextlib import nullcontext
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor

_missing: list[str] = []


def _find(module: str, name: str, default: Any) -> Any:
    """Return a name of a module of torch, or the default where this torch does not have it."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        _missing.append(f"{module}.{name}")
        return default


class CannotCapture(ValueError):
    """The program cannot be captured as a single graph.

    It has data-dependent control flow, keeps Python state, or uses a foreign random number
    generator; or a name of torch is missing.
    """


class _NoTensor:
    """Stands for a class of tensors that this torch does not have."""


FakeTensor: type = _find("torch._subclasses.fake_tensor", "FakeTensor", _NoTensor)
"""The tensors without values of a program that is being captured."""
DispatchMode: Any = _find("torch.utils._python_dispatch", "TorchDispatchMode", object)
"""A base class for modes that see every operation below autograd."""
disable_current_modes: Any = _find(
    "torch.utils._python_dispatch", "_disable_current_modes", nullcontext
)
"""A context in which the values of ordinary tensors can be read during a capture."""
tree_flatten: Any = _find("torch.utils._pytree", "tree_flatten", None)
tree_unflatten: Any = _find("torch.utils._pytree", "tree_unflatten", None)


class Inductor(NamedTuple):
    """The parts of torch's compiler that the package uses."""

    compile: Any
    graph_pass: Any
    kernel: Any
    fallback_handler: Any
    lowerings: Any


@cache
def inductor() -> Inductor:
    """Import torch's compiler, which takes more than a second.

    Raises:
        ImportError, AttributeError: This version of torch lacks a name.
    """
    names = {
        "compile": "torch._inductor",
        "CustomGraphPass": "torch._inductor.custom_graph_pass",
        "ExternKernel": "torch._inductor.ir",
        "fallback_handler": "torch._inductor.lowering",
        "lowerings": "torch._inductor.lowering",
    }
    return Inductor(*(getattr(import_module(module), name) for name, module in names.items()))


def check_available() -> None:
    """Raise a `CannotCapture` if a capture needs a name that this version of torch lacks."""
    if _missing:
        raise CannotCapture(f"this version of torch does not have {', '.join(_missing)}")


def storage_id(tensor: Tensor) -> int:
    """Identify the memory of a tensor, also of one without values."""
    return int(tensor.untyped_storage()._cdata)
