"""Every model has its port, its lines in the catalogues, its case and its row in the README."""

import ast
from pathlib import Path

import pytest
from cases import CASES
from every_objective import FOR_FIT_ALONE, LOSSES

import ppl_vae.inference
import ppl_vae.models

ROOT = Path(__file__).parents[2]
SHARED_FILES = {"__init__", "base", "conditional", "svi"}
MODEL_FILES = sorted(
    path.stem for path in (ROOT / "ppl_vae/models").glob("*.py") if path.stem not in SHARED_FILES
)


def classes(path: Path) -> set[str]:
    """The classes that a file defines, but for private ones."""
    tree = ast.parse(path.read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return {name for name in names if not name.startswith("_")}


def exported(path: Path) -> set[str]:
    """The strings of a file's `__all__`, which needs no import and so no optional packages."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no __all__")


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_is_complete(name: str) -> None:
    models = classes(ROOT / f"ppl_vae/models/{name}.py")
    port = ROOT / f"ppl_vae/numpyro/models/{name}.py"
    assert port.exists(), "no NumPyro port"
    assert models <= classes(port), "the port has another class"
    assert models <= set(ppl_vae.models.__all__), "no line in models/__init__.py"
    assert models <= exported(ROOT / "ppl_vae/numpyro/models/__init__.py"), "no line in the port's"
    assert models <= {case.model.cls for case in CASES}, "no case in tests/support/cases.py"
    readme = (ROOT / "README.md").read_text()
    assert all(f"| `{model}` |" in readme for model in models), "no row in the README"


def test_both_backends_export_the_same() -> None:
    for room, package in (("models", ppl_vae.models), ("inference", ppl_vae.inference)):
        port = exported(ROOT / f"ppl_vae/numpyro/{room}/__init__.py")
        assert set(package.__all__) == port


def test_every_objective_is_in_a_case_and_in_the_readme() -> None:
    names = {
        name
        for name in ppl_vae.inference.__all__
        if isinstance(getattr(ppl_vae.inference, name), type)
        and issubclass(getattr(ppl_vae.inference, name), ppl_vae.inference.Objective)
    } - {"Objective"}
    assert names - FOR_FIT_ALONE <= {case.objective.cls for case in CASES}
    readme = (ROOT / "README.md").read_text()
    assert all(f"| `{name}(" in readme for name in names)


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
