"""Calls with bad input, written without naming a backend."""

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
    """The part of a backend that the tests of bad input use."""

    models: ModuleType
    inference: ModuleType

    def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        """Call a public class or function by its name, with a random key if it takes one."""

    def part(self, part: Part) -> Any:
        """Return the instance that a part of the table of cases describes."""

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """Return a copy of the model's weights."""

    def method(self, method: str, case: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of a case's model, with a random key if it needs one."""


Call: TypeAlias = Callable[[Backend], Any]
Row: TypeAlias = tuple[Call, str]


def new(name: str, *arguments: Any, **more: Any) -> Call:
    """A call of a public class or function."""
    return lambda backend: backend.call(name, *arguments, **more)


def of_vae(name: str, *arguments: Any, **settings: Any) -> Call:
    """A call of a function of the VAE, with these arguments after its data."""
    return lambda backend: backend.call(
        name, backend.part(CASE["vae"].model), X, *arguments, **settings
    )


def train(case: str, data: Any, objective: Any = None, **settings: Any) -> Call:
    """A call of `fit` that must fail before it changes the model."""

    def call(backend: Backend) -> None:
        model = backend.part(CASE[case].model)
        before = backend.weights(model)
        loss = objective.make(backend.inference) if isinstance(objective, Part) else objective
        given = {"epochs": 1, "progress": False, **settings}
        try:
            backend.call("fit", model, data, loss, **given)
        finally:
            after = backend.weights(model)
            assert all(np.array_equal(after[name], before[name]) for name in before)

    return call
