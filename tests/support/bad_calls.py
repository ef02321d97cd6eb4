"""What the table of bad input is written in: calls of a backend that they do not name."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
from cases import CASES, Part, labelled, partly_labelled, pixels

CASE = {case.name: case for case in CASES}
(X,) = pixels(0)
X_SEMI, Y_SEMI = partly_labelled(0)
Y = labelled(0)[1]
NAN = np.where(np.arange(6) == 2, np.nan, X).astype(np.float32)


class Backend(Protocol):
    """What the table asks of a backend."""

    name: str
    models: ModuleType
    inference: ModuleType

    def new(self, cls: str, *arguments: Any, **more: Any) -> Any:
        """A network or a model of that class."""

    def make(self, case: str) -> Any:
        """The model of a case."""

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """A copy of its weights."""

    def drawn(self, method: str, case: str, *arguments: Any, **more: Any) -> Any:
        """What a method of a case's model gives, with a random key where it needs one."""


Call: TypeAlias = Callable[[Backend], Any]
Row: TypeAlias = tuple[Call, str]


def train(case: str, data: Any, objective: Any = None, **settings: Any) -> Call:
    """A call of `fit` that must fail before it has changed the model."""

    def call(backend: Backend) -> None:
        model = backend.make(case)
        before = backend.weights(model)
        loss = objective.make(backend.inference) if isinstance(objective, Part) else objective
        given = {"epochs": 1, "progress": False, **settings}
        try:
            backend.inference.fit(model, data, loss, **given)
        finally:
            after = backend.weights(model)
            assert all(np.array_equal(after[name], before[name]) for name in before)

    return call


def new(cls: str, *arguments: Any, **more: Any) -> Call:
    return lambda backend: backend.new(cls, *arguments, **more)


def loss(cls: str, *arguments: Any, **more: Any) -> Call:
    """An objective, or another thing of the room of inference, with these arguments."""
    return lambda backend: getattr(backend.inference, cls)(*arguments, **more)


def of_vae(name: str, *arguments: Any, **settings: Any) -> Call:
    """A call of a measurement of the VAE with these arguments after its data."""
    return lambda backend: getattr(backend.inference, name)(
        backend.make("vae"), X, *arguments, **settings
    )
