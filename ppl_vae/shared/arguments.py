"""The arguments an object was made with, remembered so that a file can make it again."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin

from ppl_vae.shared.checks import check_flag

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Configurable:
    """A class whose instances know the arguments of their `__init__`.

    `arguments` maps each parameter's name to its value, defaults included. `describe()` is the same
    as JSON values, in which an argument that itself remembers (an injected network) is written as
    `{"class": name, "arguments": {...}}`; `from_description` is its inverse.

    A class is found by its name among the classes that are defined at that moment. A file can
    therefore never import or execute anything, and a model of your own must be defined before its
    file is loaded. `backend` keeps the Pyro and the NumPyro class of one name apart.

    What `__init__` annotates as `bool`, or as networks (`nn.Module | None`, a `Callable`, a
    `Sequence` of these), is checked when an instance is made: a ValueError names the argument that
    is something else.
    """

    backend: ClassVar[str] = ""
    arguments: Mapping[str, Any]
    _known: ClassVar[dict[tuple[str, str], type["Configurable"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._known[cls.backend, cls.__name__] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        # Copying makes an instance without arguments and then fills in its state: hence "partial".
        # Wrong arguments are left to __init__, whose own message is the better one.
        try:
            bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        except TypeError:
            return self
        bound.apply_defaults()
        values = dict(list(bound.arguments.items())[1:])
        for name, value in values.items():
            _check_given(bound.signature.parameters[name], value)
        object.__setattr__(self, "arguments", values)
        return self

    def describe(self) -> dict[str, Any]:
        """The class's name and the arguments, as values that JSON can hold.

        Raises:
            ValueError: an argument is neither a JSON value nor something that remembers.
        """
        cls = type(self).__name__
        return {
            "class": cls,
            "arguments": {
                key: _as_json(value, f"{cls}({key}=...)") for key, value in self.arguments.items()
            },
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any], **extra: Any) -> Self:
        """An instance made with the described arguments.

        Args:
            description: What `describe()` returned.
            extra: Further arguments that every class of this backend takes (a random key, say).

        Raises:
            ValueError: the description names a class that is not defined or not a kind of this one,
                or arguments that its `__init__` does not take.
        """
        name = description.get("class") if isinstance(description, Mapping) else None
        arguments = description.get("arguments") if isinstance(description, Mapping) else None
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise ValueError(
                f"description should have 'class' and 'arguments', was {reprlib.repr(description)}"
            )
        known = cls._known.get((cls.backend, name))
        if known is None or not issubclass(known, cls):
            raise ValueError(
                f"class should be {cls.__name__} or a subclass of it that is defined in this "
                f"program, was {reprlib.repr(name)}"
            )
        values = {key: cls._from_json(value, extra) for key, value in arguments.items()}
        try:
            return known(**values, **extra)
        except ValueError:
            raise
        except Exception as error:  # a constructor may do anything with what a file made up
            why = str(error).partition("\n")[0][:200]
            raise ValueError(
                f"arguments should be those of {name}, were {reprlib.repr(values)} ({why})"
            ) from error

    @classmethod
    def _from_json(cls, value: Any, extra: Mapping[str, Any]) -> Any:
        if isinstance(value, Mapping):
            root = next(c for c in reversed(cls.__mro__) if c.__dict__.get("backend"))
            assert issubclass(root, Configurable)
            return root.from_description(value, **extra)
        if isinstance(value, list):
            return tuple(cls._from_json(item, extra) for item in value)
        return value


def _check_given(parameter: inspect.Parameter, value: Any) -> None:
    """Flags are True or False; where a network is asked for, nothing else is handed in."""
    name, annotation = parameter.name, parameter.annotation
    if value is parameter.default or parameter.kind in VARIABLE:
        return
    if annotation is bool:
        check_flag(name, value)
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    of_networks = all(kind is NoneType or _is_of_networks(kind) for kind in kinds)
    if of_networks and not any(_is_one(value, kind) for kind in kinds):
        wanted = " or ".join(map(_called, kinds))
        was = " ".join(reprlib.repr(value).split())  # that of a torch module has many lines
        raise ValueError(f"{name} should be {wanted}, was {was}")


def _is_of_networks(kind: Any) -> bool:
    """Whether an annotation is a class whose instances are called, or a sequence of such."""
    if get_origin(kind) is Sequence:
        return _is_of_networks(get_args(kind)[0])
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return get_origin(kind) is Callable
    return any("__call__" in base.__dict__ for base in kind.__mro__)


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind, in the place of networks."""
    if get_origin(kind) is Sequence:
        several = isinstance(value, Iterable) and isinstance(value, Sized)
        return several and all(_is_one(part, get_args(kind)[0]) for part in value)
    if get_origin(kind) is Callable:
        return callable(value) and not isinstance(value, type)  # a network is made before
    return isinstance(value, kind)


def _called(kind: Any) -> str:
    if get_origin(kind) is Sequence:
        return f"a sequence of {_called(get_args(kind)[0])}"
    if kind is NoneType:
        return "None"
    return "Callable" if get_origin(kind) is Callable else str(kind.__name__)


def constructor_call(made: object) -> str:
    """`Warmup(epochs=10)`: how an object was made, from the attributes of its arguments' names.

    Arguments that are the defaults are left out.
    """
    parameters = inspect.signature(type(made)).parameters.values()
    held = {p.name: repr(getattr(made, p.name)) for p in parameters if hasattr(made, p.name)}
    other = [p.name for p in parameters if held.get(p.name, repr(p.default)) != repr(p.default)]
    return f"{type(made).__name__}({', '.join(f'{name}={held[name]}' for name in other)})"


def _as_json(value: Any, where: str) -> Any:
    if isinstance(value, Configurable):
        return value.describe()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(item, where) for item in value]
    raise ValueError(
        f"{where} should be a number, a string, a list or a ppl_vae network to be saved, "
        f"was {type(value).__name__}"
    )
