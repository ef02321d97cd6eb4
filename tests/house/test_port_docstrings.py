"""The port has the signatures of the Pyro side, and its docstrings refer to it."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import ppl_vae.inference
import ppl_vae.models
import ppl_vae.numpyro.inference
import ppl_vae.numpyro.models

ROOMS = {
    "models": (ppl_vae.models, ppl_vae.numpyro.models),
    "inference": (ppl_vae.inference, ppl_vae.numpyro.inference),
}

COMPILED = {"compile", "precision"}  # the port always compiles, in the precision that jax is set to
ONE_SIDED = {
    "inference.fit": COMPILED | {"mesh"},
    "inference.bdmc": COMPILED,
    "inference.log_likelihood": COMPILED,
    "inference.mean_loss": COMPILED,
}
"""Parameters that only one of the two backends has."""

OTHER_SIGNATURES = {
    # Bases without an `__init__`: an Equinox module's is that of a dataclass of its fields.
    "models.Model",
    "models.ConditionalModel",
    "models.Network",
    # The interface of each library: distributions and the losses that its `SVI` calls.
    "models.RankOneNormal",
    "models.RankOneNormal.expand",
    "models.RankOneNormal.rsample",
    "inference.Objective.loss",
}


def twins(room: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield all exported classes and functions, and public methods, with those of the port."""
    ours, port = ROOMS[room]
    for name in ours.__all__:
        one, other = getattr(ours, name), getattr(port, name)
        if one is other:  # shared by both backends
            continue
        yield f"{room}.{name}", one, other
        if inspect.isclass(one):
            for method, value in vars(one).items():
                if not method.startswith("_") and callable(getattr(one, method)) and value:
                    pair = getattr(one, method), getattr(other, method, None)
                    if pair[1] is not None and pair[0] is not pair[1]:
                        yield f"{room}.{name}.{method}", *pair


CALLABLES = [
    pytest.param(*twin, id=twin[0])
    for room in ROOMS
    for twin in twins(room)
    if callable(twin[1]) and twin[0] not in OTHER_SIGNATURES
]


def parameters(value: Any, without: set[str]) -> list[tuple[str, str, Any]]:
    """Return names, defaults (as text: classes of either backend look alike) and kinds."""
    return [
        (p.name, repr(p.default), p.kind)
        for p in inspect.signature(value).parameters.values()
        if p.name not in without
    ]


@pytest.mark.parametrize(("name", "ours", "port"), CALLABLES)
def test_the_port_takes_the_same_arguments_and_a_key(name: str, ours: Any, port: Any) -> None:
    without = ONE_SIDED.get(name, set()) | {"key"}
    assert parameters(port, without) == parameters(ours, without)
    key = inspect.signature(port).parameters.get("key")
    assert key is None or key.kind is inspect.Parameter.KEYWORD_ONLY
    assert "key" not in inspect.signature(ours).parameters


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_the_port_refer_to_the_pyro_side(room: str) -> None:
    others = []
    for name, ours, port in twins(room):
        doc, is_method = own_doc(port), name.count(".") == 2
        refers = doc.startswith(f"See `ppl_vae.{name}`")
        inherited = not port.__module__.startswith("ppl_vae.")  # from NumPyro's `ELBO`
        if own_doc(ours) and not refers and (doc or not is_method) and not inherited:
            others.append(name)
    assert not others


def own_doc(value: Any) -> str:
    """Return the docstring of a class or function itself, not one that a class inherits."""
    return (vars(value) if inspect.isclass(value) else {"__doc__": value.__doc__})["__doc__"] or ""


def test_the_exceptions_are_needed() -> None:
    names = {twin[0]: twin[1:] for room in ROOMS for twin in twins(room)}
    assert names.keys() >= OTHER_SIGNATURES | ONE_SIDED.keys()
    for name, without in ONE_SIDED.items():
        ours, port = (parameters(value, {"key"}) for value in names[name])
        assert ours != port, name
        assert {p[0] for p in [*ours, *port]} & without, name
