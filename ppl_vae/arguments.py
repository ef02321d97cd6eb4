"""The arguments an object was made with, remembered so that a file can make it again."""

import inspect
import reprlib
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin


class Remembers:
    """A class whose instances know the arguments of their `__init__`.

    `arguments` maps each parameter's name to its value, defaults included. `describe()` is the same
    as JSON values, in which an argument that itself remembers (an injected network) is written as
    `{"class": name, "arguments": {...}}`; `from_description` is its inverse.

    A class is found by its name among the classes that are defined at that moment. A file can
    therefore never import or execute anything, and a model of your own must be defined before its
    file is loaded. `backend` keeps the Pyro and the NumPyro class of one name apart.
    """

    backend: ClassVar[str] = ""
    arguments: Mapping[str, Any]
    _known: ClassVar[dict[tuple[str, str], type["Remembers"]]] = {}

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
        _check_parts(known, values)
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
            assert issubclass(root, Remembers)
            return root.from_description(value, **extra)
        if isinstance(value, list):
            return tuple(cls._from_json(item, extra) for item in value)
        return value


def _check_parts(known: type, values: Mapping[str, Any]) -> None:
    """Where `__init__` asks for an object, a network say, nothing else is handed to it."""
    for name, parameter in inspect.signature(known).parameters.items():
        annotation = parameter.annotation
        either = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        kinds = tuple(Callable if get_origin(kind) is Callable else kind for kind in either)
        plain = all(isinstance(kind, type) for kind in kinds) and annotation is not parameter.empty
        if not plain or all(kind.__module__ == "builtins" for kind in kinds) or name not in values:
            continue
        if not isinstance(values[name], kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{name} should be {wanted}, was {reprlib.repr(values[name])}")


def as_call(made: object) -> str:
    """`Warmup(epochs=10)`: how an object was made, from the attributes of its arguments' names.

    Arguments that are the defaults are left out.
    """
    parameters = inspect.signature(type(made)).parameters.values()
    held = {p.name: repr(getattr(made, p.name)) for p in parameters if hasattr(made, p.name)}
    other = [p.name for p in parameters if held.get(p.name, repr(p.default)) != repr(p.default)]
    return f"{type(made).__name__}({', '.join(f'{name}={held[name]}' for name in other)})"


def _as_json(value: Any, where: str) -> Any:
    if isinstance(value, Remembers):
        return value.describe()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(item, where) for item in value]
    raise ValueError(
        f"{where} should be a number, a string, a list or a ppl_vae network to be saved, "
        f"was {type(value).__name__}"
    )
