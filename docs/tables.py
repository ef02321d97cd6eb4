"""Write the generated tables of README.md and docs/.

    python docs/tables.py

Tables of models, objectives and measurements come from the docstrings of the classes and functions
that `ppl_vae.models` and `ppl_vae.inference` export: the first paragraph, and authors and year of
each reference. Tables of results come from the front matter of the files in benchmarks/results/. A
table stands between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`; what is outside is
written by hand.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ppl_vae.inference as inference
import ppl_vae.models as models

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
REFERENCE = re.compile(r'(?<!\S)([A-Z][^"\d:;()]*), "[^"]+",.*?\b((?:19|20)\d\d)\b')


def main() -> None:
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


def pages() -> dict[Path, str]:
    """Return the text that each page with generated tables should have."""
    written = {
        ROOT / "docs/models.md": {"models": model_tables},
        ROOT / "docs/objectives.md": {"objectives": objective_table},
        ROOT / "docs/evaluation.md": {"measurements": measurement_table},
        ROOT / "docs/results.md": {"results": result_tables},
        ROOT / "README.md": {"results": readme_results},
    }
    return {path: filled(path.read_text(), tables) for path, tables in written.items()}


def filled(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """Return `text` with each named table between its markers."""
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = f"{before}{begin}\n{table().strip()}\n\n{end}{after}"
    return text


def model_tables() -> str:
    """Return a heading and a table for each family of the catalogue, models before their parts."""
    pages: dict[str, list[str]] = {"model": [], "class": []}
    for family, names in families(Path(models.__file__)).items():
        classes = [(name, getattr(models, name)) for name in names]
        kind = "model" if all(is_pair(cls) for _, cls in classes) else "class"
        rows = [(f"`{name}`", first_paragraph(cls), papers(cls)) for name, cls in classes]
        pages[kind] += [f"### {family}", table((kind, "description", "paper"), rows)]
    return "\n\n".join(pages["model"] + pages["class"])


def families(path: Path) -> dict[str, list[str]]:
    """Return the names that a catalogue imports below each of its comments."""
    text = path.read_text()
    lines = {
        node.lineno: alias.asname
        for node in ast.parse(text).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# ") and not line.startswith("# isort"):
            found[line[2:]] = family = []
        elif number in lines:
            family.append(lines[number])
    return found


def is_pair(cls: type) -> bool:
    """Return whether a class is a model whose `model` and `guide` are not those of the base."""
    base = models.Model
    return issubclass(cls, base) and cls.model is not base.model and cls.guide is not base.guide


def objective_table() -> str:
    exported = [(name, getattr(inference, name)) for name in inference.__all__]
    rows = [
        (f"`{name}({arguments(value)})`", first_paragraph(value), papers(value))
        for name, value in exported
        if isinstance(value, type) and issubclass(value, inference.Objective)
        if value is not inference.Objective
    ]
    return table(("objective", "description", "paper"), rows)


def measurement_table() -> str:
    exported = [(name, getattr(inference, name)) for name in inference.__all__]
    rows = [
        (f"`{name}`", first_paragraph(value), papers(value))
        for name, value in exported
        if inspect.isfunction(value) and name != "fit"
    ]
    return table(("function", "description", "paper"), rows)


def arguments(cls: type) -> str:
    """Return the names of a class's arguments, without the one that all objectives have."""
    names = inspect.signature(cls).parameters
    return ", ".join(name for name in names if name != "max_plate_nesting")


def first_paragraph(value: Any) -> str:
    """Return the first paragraph of a docstring as one line, without the final full stop."""
    text = (inspect.getdoc(value) or "").split("\n\n")[0]
    return " ".join(text.split()).removesuffix(".").replace("|", "\\|")


def papers(value: Any) -> str:
    """Return authors and year of each reference of a docstring."""
    text = inspect.getdoc(value) or ""
    section = re.search(r"^References:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    if section is None:
        return ""
    found = REFERENCE.findall(" ".join(section[1].split()))
    if not found:
        raise ValueError(f'the references of {value} should read: authors, "title", ... year')
    return "; ".join(f"{authors} {year}" for authors, year in found)


def result_tables() -> str:
    """Return a heading and a table for each group of results."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name, row in results():
        files = [name, *row.get("also", "").split()]
        links = ", ".join(f"[{file}](../benchmarks/results/{file}.md)" for file in files)
        cells = (row["experiment"], row["result"], row.get("paper", ""), links)
        groups.setdefault(row["group"], []).append(cells)
    header = ("experiment", "result", "paper", "file")
    return "\n\n".join(f"## {group}\n\n{table(header, groups[group])}" for group in sorted(groups))


def readme_results() -> str:
    rows = [
        (row["readme"], row["result"], row.get("paper", ""))
        for _, row in results()
        if "readme" in row
    ]
    return table(("experiment", "result", "paper"), rows)


def results() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows that the front matter of each file of results describes, in natural order."""
    for path in sorted(RESULTS.glob("*.md"), key=_natural):
        text = path.read_text()
        if text.startswith("---\n"):
            front = text.split("---\n")[1]
            for block in re.split(r"^- ", front, flags=re.MULTILINE)[1:]:
                pairs = (line.strip().partition(": ") for line in block.splitlines())
                yield path.stem, {key: value for key, _, value in pairs}


def _natural(path: Path) -> list[int | str]:
    words = re.split(r"(\d+)", path.stem)
    return [int(word) if word.isdecimal() else word for word in words]


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


if __name__ == "__main__":
    main()
