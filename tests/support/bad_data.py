"""Wrong data of every model: each array of its case is replaced by wrong ones in turn."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from bad_calls import CASE, Backend
from cases import PAIRS, reals

MODELS = {(case.model.cls, case.data): case.name for case in PAIRS}.values()
"""One case of each class of models and each form of its data."""


def assert_data_refused(backend: Backend, name: str) -> None:
    """Check that the model of a case refuses wrong data; the error names the array."""
    case = CASE[name]
    model, data = backend.part(case.model), case.inputs(0)
    names = list(inspect.signature(model.model).parameters)
    bounded = hasattr(model, "decoder") and case.data is not reals
    model.check(*data)
    calls = [
        ((), "data should be at least one array"),
        ((*data, data[0], data[0], data[0]), "data"),
    ]
    for i, array in enumerate(data):
        for value, words in _wrong(array, bounded=bounded and names[i] == "x"):
            calls.append(((*data[:i], value, *data[i + 1 :]), words.format(name=names[i])))
    if len(data) > 1:
        calls.append(((data[0][1:], *data[1:]), r"data should be arrays of one length, .*\[23, 24"))
    for wrong, words in calls:
        try:
            model.check(*wrong)
        except ValueError as error:
            message = str(error)
        else:
            raise AssertionError(f"{name} accepted data of which {words!r}")
        assert re.match(words, message), f"{name}: {message!r} is not {words!r}"
        assert "\n" not in message


def _wrong(array: np.ndarray, *, bounded: bool) -> Iterator[tuple[Any, str]]:
    if array.dtype == bool:
        yield array / np.float32(1), "{name} should be of a boolean type, was float32"
        yield array[:, 1:], r"{name} should have shape \(n, 6\), had \(24, 5\)"
    elif array.dtype.kind == "i":
        yield array + 7, "{name} should be classes 0 to 2, held 7 to 9"
        yield array - 1, "{name} should be classes 0 to 2, held -1 to 1"
        yield array / 1.0, r"{name} should (be of an integer type|have shape \(n, 3\))"
    else:
        yield array[:, 1:], r"{name} should have shape \(n, \d+\), had \(24, \d+\)"
        yield np.where(array > 1e9, array, np.nan), "{name} should be finite, held NaN"
        yield array.tolist(), r"data should be arrays of shape \(n, \.\.\.\), held list"
        if bounded:
            yield 255 * array, r"{name} should lie in \[0, 1\], lay in"
