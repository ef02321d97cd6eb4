"""Wrong values of arguments by their names and annotations: every public signature is walked.

A new model, objective or measurement needs no entry: the values of its other required arguments
come from the table of cases, and its wrong values from its signature.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin

import numpy as np
from bad_calls import CASE, NAN, Backend, X
from cases import CASES, Part

from ppl_vae.shared.arguments import Configurable

Wrong = tuple[Any, str]
NONSENSE = "nonsense"

UNCHECKED = {
    *("self", "args", "kwargs", "arguments", "key", "label", "out", "axes", "mesh"),
    *("ConcatLinear.in_dims", "ConcatLinear.out_dim"),
    *("ConditionalModel.x_dim", "ConditionalModel.c_dim"),
}
"""Parameters without a check: keys, paths, labels, values for other libraries; sizes that `MLP` and
the models checked before."""

DATA: list[Wrong] = [
    (NAN, "x should be finite, held NaN"),
    (X[:0], "data should hold at least one datum, was empty"),
    (X.tolist(), r"data should be arrays of shape \(n, \.\.\.\), held list"),
    (X[:, 1:], r"x should have shape \(n, 6\), had \(24, 5\)"),
]
NAMED: dict[str, list[Wrong]] = {
    "data": DATA,
    "x": DATA,
    "batch": DATA,
    "bdmc.data": [(0, "data should be a whole number of at least 1, was 0"), *DATA[1:]],
    "test": [(value, f"test should be data .*, but {words}") for value, words in DATA],
    "validation": [
        (value, f"validation should be data .*, but {words}")
        for value, words in [*DATA, (3, "data should be arrays .*held int")]
    ],
    "observed": [
        (X, "observed should be of a boolean type, was float32"),
        (X[:, 1:] > 0.5, r"observed should have shape \(n, 6\), had \(24, 5\)"),
        (X[1:] > 0.5, "observed .*24 rows, those of x, had 23"),
    ],
    "objective": [(NONSENSE, "objective should be .*objective.*, was str")],
    "objectives": [
        (NONSENSE, f"objectives should be .*was '{NONSENSE}'"),
        ([NONSENSE], "each of objectives should be .*objective, was str"),
        ({}, "objectives should be at least one, was none"),
    ],
    "seed": [
        ("a", "seed should be a whole number of at least 0, was 'a'"),
        (2**32, r"seed should be below 2\*\*32, was 4294967296"),
    ],
    "Piecewise.values": [
        (
            value,
            rf"values and epochs should be sequences .*, were {re.escape(repr(value))} and \(3,\)",
        )
        for value in ((), 2.5, (1.0, 0.1))
    ],
    "Piecewise.epochs": [
        (2.5, r"values and epochs should be sequences .*, were \(0.5,\) and 2.5"),
        ((0,), "each of epochs should be a whole number of at least 1, was 0"),
    ],
    "evenly.path": [(X[0], r"path should have shape \(m, z_dim\), had \(6,\)")],
    "path_along_graph.nodes": [(X[0], r"nodes should have shape \(n, z_dim\), had \(6,\)")],
    **{
        f"path_along_graph.{name}": [(X, rf"{name} should have shape \(6,\), had \(24, 6\)")]
        for name in ("start", "end")
    },
    "labelled_first": [(-1, "labelled_first should be a whole number of at least 0, was -1")],
}
"""Wrong values by the name of the parameter, or of the function and the parameter."""

LEAST = {
    "n_classes": 2,
    "n_categories": 2,
    "VIMCO.k": 2,
    "TVO.k": 2,
    "subset": 2,
    "ExponentialDecay.epochs": 2,
    "repeats": 2,
    "adaptation": 2,
    "bins": 2,
    "evenly.n": 2,
    "gaps.k": 2,
    "active_units.k": 2,
    "calibration.n": 100,
    "simulations": 100,
    "pareto_k.k": 100,
    "diagnose.k": 100,
}
"""The least of a whole number, where it is known to be more than 1."""

NUMBERS = {
    "lr": "a positive number",
    "clip_norm": "a positive number",
    "eps": "a positive number",
    "rate": "a positive number",
    "temperature": "a positive number",
    "threshold": "a positive number",
    "epsilon": "a positive number",
    "start": "a positive number",
    "end": "a positive number",
    "tau": "a positive number",
    "tolerance": "a finite number",
    "delta": r"lie in \[0, 1\)",
    "momentum": r"a number in \[0, 1\)",
    "beta": "at least 0",
    "free_bits": "at least 0",
    "nats": "at least 0",
    "weight_decay": "at least 0",
    "SemiSupervised.alpha": "at least 0",
    "labelled_fraction": r"lie in \[0, 1\]",
    "decay": r"a number in \[0, 1\]",
    "Hybrid.alpha": r"a number in \[0, 1\]",
    "CIWAE.beta": r"a number in \[0, 1\]",
    "Warmup.start": r"a number in \[0, 1\]",
    "Renyi.alpha": "a number or -inf",
    "CUBO.n": "a number above 1",
}
"""The message about a floating-point number, where it is known."""

BESIDE: dict[str, dict[str, Any]] = {
    "SGD.nesterov": {"momentum": 0.9},
    **{
        f"{name}.{parameter}": {"method": "ais"}
        for name in ("log_likelihood", "gaps")
        for parameter in ("chains", "temperatures", "leapfrog_steps", "adaptation")
    },
    # The error of `compare` itself must come first: it is found before anything is trained.
    **{f"compare.{name}": {"epochs": 0} for name in ("test", "batch_size", "repeats", "k", "seed")},
}
"""Arguments without which another one is not read, or which must not be read before it."""


def public(backend: Backend) -> dict[str, Callable[..., Any]]:
    """The public classes and functions that take arguments of a user, by name."""
    models = {name: getattr(backend.models, name) for name in backend.models.__all__}
    others = {name: getattr(backend.inference, name) for name in backend.inference.__all__}
    found = models | {name: thing for name, thing in others.items() if not _is_result(thing)}
    return {
        name: thing
        for name, thing in found.items()
        if not (inspect.isabstract(thing) or hasattr(thing, "log_prob")) and _checked(name, thing)
    }


def _is_result(thing: Any) -> bool:
    return dataclasses.is_dataclass(thing) and not issubclass(thing, Configurable)  # type: ignore[arg-type]


def _checked(name: str, thing: Any) -> list[inspect.Parameter]:
    parameters = inspect.signature(thing).parameters.values()
    return [p for p in parameters if not UNCHECKED & {p.name, f"{name}.{p.name}"}]


def assert_refused(backend: Backend, name: str) -> None:
    """Check that a class or a function refuses a wrong value of each of its parameters.

    The error names the argument and its value in one line, and a model keeps its weights.
    """
    thing = public(backend)[name]
    given = _arguments(backend, name, thing)
    model = given.get("model")
    before = None if model is None else backend.weights(model)
    for parameter in _checked(name, thing):
        key = f"{name}.{parameter.name}"
        for value, words in wrong_values(name, parameter):
            call = {**given, **BESIDE.get(key, {}), parameter.name: value}
            try:
                backend.call(name, **call)
            except ValueError as error:
                message = str(error)
            else:
                raise AssertionError(f"{key} accepted {value!r}")
            assert re.match(words, message), f"{key}: {message!r} is not {words!r}"
            assert "\n" not in message
    if before is not None:
        after = backend.weights(model)
        assert all(np.array_equal(after[weight], before[weight]) for weight in before)


def wrong_values(owner: str, parameter: inspect.Parameter) -> list[Wrong]:
    """Return wrong values of a parameter, each with the start of the message about it."""
    name = parameter.name
    named = NAMED.get(f"{owner}.{name}", NAMED.get(name))
    if named is not None:
        return named
    assert parameter.annotation is not Any, f"{owner}.{name} has no wrong value in NAMED"
    kinds = [kind for kind in _kinds(parameter.annotation) if kind is not type(None)]
    items = [get_args(kind)[0] for kind in kinds if get_origin(kind) is Sequence]
    least = LEAST.get(f"{owner}.{name}", LEAST.get(name, r"[1-9]\d*"))
    number = NUMBERS.get(f"{owner}.{name}", NUMBERS.get(name, ".*"))
    if kinds == [bool]:
        return [("False", f"{name} should be True or False, was 'False'")]
    if items and _is_network(items[0]):
        return [("a", rf"{name} should be a sequence of networks \(\w+\), was 'a'")]
    if _is_network(kinds[0]):
        return [("a", rf"{name} should be a network \(\w+\), was 'a'")]
    wrong: list[Wrong] = []
    if int in kinds:
        wrong.append((0, f"{name} should be a whole number of at least {least}, was 0"))
    if float in kinds:
        wrong += [
            (value, f"{name} should (be )?{number}, was {value!r}") for value in ("a", np.nan)
        ]
    if items and items[0] is not str and get_origin(items[0]) is not Literal:
        wrong.append((2.5, f"{name} should be .*was 2.5"))
    if any(get_origin(kind) is tuple for kind in kinds):
        wrong.append((0.5, f"{name} should be .*was 0.5"))
    return wrong or [(NONSENSE, f".*{name} should be .*, was (str|'{NONSENSE}')")]


def _kinds(annotation: Any) -> tuple[Any, ...]:
    several = str(get_origin(annotation)).endswith(("UnionType'>", "Union"))
    return get_args(annotation) if several else (annotation,)


def _is_network(kind: Any) -> bool:
    return "nn.modules.module.Module" in str(kind) or get_origin(kind) is Callable


def _arguments(backend: Backend, name: str, thing: Any) -> dict[str, Any]:
    """Return right values of the required arguments, from the table of cases where it has them."""
    parts = [part for case in CASES for part in (case.model, case.objective)]
    part = next((part for part in parts if part.cls == name), None)
    if part is not None:
        return {
            key: backend.part(value) if isinstance(value, Part) else value
            for key, value in part.arguments.items()
        }
    parameters = inspect.signature(thing).parameters
    required = {p.name: p.annotation for p in parameters.values() if p.default is p.empty}
    known: dict[str, Any] = {
        "objective": backend.inference.ELBO(),
        "objectives": [backend.inference.ELBO()],
        "observed": X > 0.5,
        **dict.fromkeys(("data", "x", "test", "batch", "nodes", "path"), X),
    }
    if name == "path_along_graph":
        known |= {"start": X[0], "end": X[1]}
    quiet = {"progress": False} if "progress" in parameters else {}
    if "model" in required:
        known["model"] = backend.part(CASE["vae"].model)
    return quiet | {
        key: known[key] if key in known else _example(annotation)
        for key, annotation in required.items()
        if key != "key"
    }


def _example(annotation: Any) -> Any:
    kinds = _kinds(annotation)
    if int in kinds:
        return 3
    return 0.5 if float in kinds else tuple(_example(item) for item in get_args(kinds[0]))
