"""The layout of the package: which room may import from which, and what stands where."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "ppl_vae"
FLOORS = (
    "shared",
    "shared.io",
    "shared.training",
    "shared.objectives",
    "shared.evaluation",
    "plots",
    "data",
    "models.distributions",
    "models.networks",
    "models",
    "inference",
    "inference.compilation",
    "inference.objectives.parts",
    "inference.objectives",
    "inference.distributed",
    "inference.evaluation",
    "inference.training",
    "shared.compare",
    "parity",
)
"""Rooms from the lowest to the highest. A file imports from its own room and from lower ones."""
BACKENDS = {"torch", "pyro", "jax", "jaxlib", "numpyro", "equinox", "optax"}
LONGEST_FILE = 270


def name_of(path: Path) -> str:
    """The module of a file, without "ppl_vae."; a package has its folder's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}
MODULES = {name: path for name, path in FILES.items() if path.stem != "__init__"}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; those of the package by `name_of`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("ppl_vae.")
                yield inner if inner in FILES else node.module.removeprefix("ppl_vae.")


IMPORTS = {name: set(imported(path)) for name, path in MODULES.items()}


def floor_of(module: str) -> int:
    """The floor of a module, by the longest of the names that it begins with."""
    name = module.removeprefix("numpyro.")
    rooms = [room for room in FLOORS if name == room or name.startswith(f"{room}.")]
    assert rooms, f"{module} stands in no room of FLOORS"
    return FLOORS.index(max(rooms, key=len))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_imports_from_lower_floors_alone(module: str) -> None:
    above = [m for m in IMPORTS[module] & MODULES.keys() if floor_of(m) > floor_of(module)]
    assert not above, f"{module} imports from higher floors: {above}"


def test_no_files_import_one_another_in_a_circle() -> None:
    left = {name: IMPORTS[name] & MODULES.keys() - {name} for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"circles among {sorted(left)}"


def test_what_backends_share_imports_neither() -> None:
    for module in MODULES:
        if module.split(".")[0] in ("shared", "data", "plots"):
            foreign = {name.split(".")[0] for name in IMPORTS[module]} & BACKENDS
            assert not foreign, f"{module} imports {foreign}"


def test_neither_backend_imports_the_other() -> None:
    for module in MODULES:
        rooms = {name.split(".")[0] for name in IMPORTS[module] & FILES.keys()}
        if module.startswith("numpyro."):
            assert rooms <= {"numpyro", "shared", "data", "plots"}, module
        elif not module.startswith("parity."):
            assert "numpyro" not in rooms, module


def test_a_model_imports_networks_distributions_and_base_alone() -> None:
    for module in MODULES:
        name = module.removeprefix("numpyro.")
        if name.startswith("models.") and name.count(".") == 1:
            others = {m.removeprefix("numpyro.") for m in IMPORTS[module] & MODULES.keys()}
            known = ("models.networks.", "models.distributions.", "shared.", "models.")
            assert all(other.startswith(known) for other in others), (module, others)


@pytest.mark.parametrize("room", ["", "numpyro/"])
def test_the_top_of_inference_stays_small(room: str) -> None:
    folder = PACKAGE / room / "inference"
    entries = [p for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    assert len(entries) <= 12


def test_no_file_is_long() -> None:
    long = {m: n for m, p in FILES.items() if (n := len(p.read_text().splitlines())) > LONGEST_FILE}
    assert not long, long


def test_each_folder_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        home = path.parent / "__init__.py"
        assert home.exists(), f"{path.parent} has no __init__.py"
        assert ast.get_docstring(ast.parse(home.read_text())), f"{home} has no docstring"
