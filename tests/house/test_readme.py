"""The code of README.md and of docs/ runs as it is printed, and links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES]
NOT_RUN = {"several_devices.md", "reliability.md"}  # need several machines; sets flags of torch
SLOW = {"port.md"}


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page one after another, with common variables."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for block in blocks(path):
        if "jax" in block:
            pytest.importorskip("numpyro", reason="the NumPyro port is not installed")
        if "compare(" in block:
            pytest.importorskip("pandas", reason="pandas is not installed")
        exec(compile(block, path.name, "exec"), names)


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(blocks(README)) == 2
    run(README, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=[pytest.mark.slow] if path.name in SLOW else [])
        for path in PAGES
        if blocks(path) and path.name not in NOT_RUN
    ],
)
def test_docs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ROOT / "docs" / name, tmp_path, monkeypatch)


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) < 6500


def anchors(path: Path) -> set[str]:
    """The anchors that code hosts give the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), f"{link} leads nowhere"
            assert not anchor or anchor in anchors(target), f"{link} names no heading"
