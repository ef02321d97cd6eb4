"""Print the oldest versions that `pyproject.toml` allows, as pip's constraints.

    python tests/oldest.py > oldest.txt

Each lower bound `>=` becomes `==`, except that of torch, which stays as `constraints.txt` pins it:
the package index has its older versions as CUDA builds only, several gigabytes with what they need.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("numpyro", "diagnostics", "test")
PINNED = ("torch",)


def oldest() -> list[str]:
    """Return one line `name==version` for each dependency, optional ones included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    requirements = [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in optional[extra]),
    ]
    bounds = [re.fullmatch(r"([\w-]+)>=([\w.]+)(,.*)?", line) for line in requirements]
    if None in bounds:
        raise ValueError(f"each of {requirements} should have a lower bound name>=version")
    pins = dict(line.split("==") for line in constraints())
    versions = {bound[1]: bound[2] for bound in bounds if bound}
    return [f"{name}=={pins[name] if name in PINNED else versions[name]}" for name in versions]


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


if __name__ == "__main__":
    print("\n".join(oldest()))
