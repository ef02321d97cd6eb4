"""Objects that record the arguments of their constructors, so that a file can rebuild them."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin

from ppl_vae.shared.checks import check_flag

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Configurable:
    """A class whose instances record the arguments of their `__init__`.

    `arguments` maps each parameter's name to its value, defaults included. `describe()` returns
    the same as JSON values, in which a configurable argument (an injected network) is written as
    `{"class": name, "arguments": {...}}`; `from_description` is its inverse.

    A class is found by its name among the classes that are defined at that moment. A file can
    therefore never import or execute anything, and a model of your own must be defined before its
    file is loaded. `backend` keeps the Pyro and the NumPyro class of one name apart.

    Arguments that `__init__` annotates as a flag (`bool`), a network (`nn.Module | None`, a
    `Callable`) or a `Sequence` of networks are checked before `__init__` runs: a ValueError names
    the invalid one.
    """

    backend: ClassVar[str] = ""
    arguments: Mapping[str, Any]
    _known: ClassVar[dict[tuple[str, str], type["Configurable"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._known[cls.backend, cls.__name__] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        # Copying creates an instance without arguments, then restores its state: hence "partial".
        # A call that does not fit the signature fails in __init__, with the better message.
        try:
            bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        except TypeError:
            return self
        bound.apply_defaults()
        values = dict(list(bound.arguments.items())[1:])
        for name, value in values.items():
            _check_annotated(bound.signature.parameters[name], value)
        object.__setattr__(self, "arguments", values)
        return self

    def describe(self) -> dict[str, Any]:
        """Return the class's name and the arguments as JSON values.

        Raises:
            ValueError: an argument is neither a JSON value nor configurable.
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
        """Return an instance with the described arguments.

        Args:
            description: The return value of `describe()`.
            extra: Further arguments that every class of this backend takes (a random key, say).

        Raises:
            ValueError: the description names a class that is not defined or no subclass of this
                one, or arguments that its `__init__` does not take.
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


def _check_annotated(parameter: inspect.Parameter, value: Any) -> None:
    """Check a flag, a network or a sequence of networks, as the parameter is annotated.

    The annotations are read here, and not repeated as calls in each `__init__`, because nearly
    every model of both backends has such arguments: a new model has nothing to add or to forget.
    """
    name, annotation = parameter.name, parameter.annotation
    union = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    allowed = value is parameter.default or (value is None and NoneType in union)
    kinds = [kind for kind in union if kind is not NoneType]
    if allowed or parameter.kind in VARIABLE or len(kinds) != 1:
        return  # a class checks `nn.Module | float` itself
    (kind,) = kinds
    if kind is bool:
        check_flag(name, value)
    elif network := _network_class(kind):
        _check_network(name, value, network)
    elif get_origin(kind) is Sequence and (network := _network_class(*get_args(kind))):
        _check_networks(name, value, network)


def _network_class(kind: Any) -> Any:
    """Return the class to check for if an annotation is `Callable[...]` or a class of callables."""
    cls = get_origin(kind) or kind
    protocol = getattr(cls, "_is_protocol", False)  # cannot be checked at run time
    callables: Any = Callable
    return cls if isinstance(cls, type) and issubclass(cls, callables) and not protocol else None


def _check_network(name: str, value: Any, cls: type) -> None:
    """Check that `value` is a network, an instance of `cls`, and not a class of networks."""
    if isinstance(value, type) or not isinstance(value, cls):
        raise ValueError(f"{name} should be a network ({cls.__name__}), was {_one_line(value)}")


def _check_networks(name: str, value: Any, cls: type) -> None:
    """Check that `value` is a sequence of networks; it may be an `nn.ModuleList`."""
    several = isinstance(value, Iterable) and isinstance(value, Sized)
    if not (several and all(isinstance(v, cls) and not isinstance(v, type) for v in value)):
        raise ValueError(
            f"{name} should be a sequence of networks ({cls.__name__}), was {_one_line(value)}"
        )


def _one_line(value: Any) -> str:
    """Return a short repr; the repr of a torch module has many lines."""
    return " ".join(reprlib.repr(value).split())


def constructor_call(instance: object) -> str:
    """Return `Warmup(epochs=10)`: the call of the constructor, without arguments left at defaults.

    The values are those of the attributes that have the arguments' names.
    """
    parameters = inspect.signature(type(instance)).parameters.values()
    held = {
        p.name: repr(getattr(instance, p.name)) for p in parameters if hasattr(instance, p.name)
    }
    other = [p.name for p in parameters if held.get(p.name, repr(p.default)) != repr(p.default)]
    return f"{type(instance).__name__}({', '.join(f'{name}={held[name]}' for name in other)})"


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
