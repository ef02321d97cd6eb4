"""The notebooks run from top to bottom on small sizes, and are committed as they ran on large."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "examples" / "notebooks"
SMALL = "PPL_VAE_QUICK"
"""With this environment variable the first code cell of a notebook chooses small sizes."""
NO_WIDGETS = "ignore:IProgress not found"
"""tqdm, which Pyro imports, warns where there is no ipywidgets; that is no fault of theirs."""
SECONDS_PER_CELL = 300
MOST_BYTES = 500_000

every_notebook = pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem
)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in code(notebook):
        yield from cell.outputs


def said(notebook: Any) -> str:
    """What cells wrote to the standard error, warnings among it."""
    found = outputs(notebook)
    return "".join(output.text for output in found if output.get("name") == "stderr")


def execute(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the cells in a fresh kernel whose working folder is `folder`, on small sizes."""
    monkeypatch.setenv(SMALL, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))  # no start-up files of the user's
    monkeypatch.setenv("PYTHONWARNINGS", NO_WIDGETS)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures are outputs, as in Jupyter
    where = {"resources": {"metadata": {"path": str(folder)}}}
    NotebookClient(notebook, kernel_name="python3", timeout=SECONDS_PER_CELL, **where).execute()


def png_of(notebook: Any) -> list[str]:
    found = (output.get("data", {}) for output in outputs(notebook))
    return [data["image/png"] for data in found if "image/png" in data]


def test_there_are_notebooks() -> None:
    assert list(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.slow
@every_notebook
def test_it_runs_on_small_sizes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert SMALL in code(notebook)[0].source
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
    execute(notebook, tmp_path, monkeypatch)
    assert said(notebook) == ""
    assert png_of(notebook)


@every_notebook
def test_it_is_committed_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    assert said(notebook) == ""
    assert png_of(notebook)
    assert path.stat().st_size < MOST_BYTES
    assert str(ROOT) not in json.dumps(notebook)
