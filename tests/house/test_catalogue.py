"""Every model and objective has its port, its lines in the catalogues, its case and its docs."""

import ast
import runpy
from importlib import import_module
from pathlib import Path

import pytest
from cases import CASES
from every_objective import FOR_FIT_ALONE, LOSSES

import ppl_vae.inference
import ppl_vae.models

ROOT = Path(__file__).parents[2]
TABLES = runpy.run_path(str(ROOT / "docs/tables.py"))
is_pair = TABLES["is_pair"]
MODELS = ROOT / "ppl_vae/models"
PORT = ROOT / "ppl_vae/numpyro/models"


def classes(path: Path) -> set[str]:
    """The classes that a file defines, but for private ones."""
    tree = ast.parse(path.read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return {name for name in names if not name.startswith("_")}


def exported(path: Path) -> set[str]:
    """What a catalogue exports, read without an import and so without optional packages."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            return set(ast.literal_eval(node.value))
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
    return names


def pairs(name: str) -> set[str]:
    """The models that a file defines: classes whose model and guide are not those of the base."""
    module = import_module(f"ppl_vae.models.{name}")
    return {cls for cls in classes(MODELS / f"{name}.py") if is_pair(getattr(module, cls))}


MODEL_FILES = sorted(path.stem for path in MODELS.glob("[!_]*.py") if pairs(path.stem))


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_is_complete(name: str) -> None:
    models, port = pairs(name), PORT / f"{name}.py"
    assert port.exists(), "no NumPyro port"
    assert models <= classes(port), "the port has another class"
    assert models <= set(ppl_vae.models.__all__), "no line in models/__init__.py"
    assert models <= exported(PORT / "__init__.py"), "no line in the port's"
    assert models <= {case.model.cls for case in CASES}, "no case in tests/support/cases.py"


def test_the_tables_of_the_docs_are_up_to_date() -> None:
    for path, text in TABLES["pages"]().items():
        assert path.read_text() == text, f"{path.name} is not: run `python docs/tables.py`"


def test_both_backends_export_the_same() -> None:
    for room, package in (("models", ppl_vae.models), ("inference", ppl_vae.inference)):
        port = exported(ROOT / f"ppl_vae/numpyro/{room}/__init__.py")
        assert set(package.__all__) == port


def test_every_objective_is_in_a_case() -> None:
    names = {
        name
        for name in ppl_vae.inference.__all__
        if isinstance(getattr(ppl_vae.inference, name), type)
        and issubclass(getattr(ppl_vae.inference, name), ppl_vae.inference.Objective)
    } - {"Objective"}
    assert names - FOR_FIT_ALONE <= {case.objective.cls for case in CASES}


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"ELBO-network"}))
def test_an_objective_shows_how_it_was_made(name: str) -> None:
    made = LOSSES[name].make()
    again = eval(repr(made), vars(ppl_vae.inference) | {"inf": float("inf")})
    assert type(again) is type(made)
    assert repr(again) == repr(made)
    assert {k: v for k, v in vars(again).items() if k != "_state"} == {
        k: v for k, v in vars(made).items() if k != "_state"
    }


def test_what_is_shown_leaves_defaults_out() -> None:
    assert repr(ppl_vae.inference.ELBO()) == "ELBO()"
    beta = ppl_vae.inference.Warmup(10)
    assert repr(ppl_vae.inference.ELBO(5, beta=beta)) == "ELBO(k=5, beta=Warmup(epochs=10))"
