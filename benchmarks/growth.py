"""Plot of the time of a step against batch size, particles, width and depth.

`speed.py --growth` measures and draws; this script redraws docs/growth.png from
benchmarks/results/growth.json.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import tyro
from contenders import OURS, OURS_EAGER
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from processes import Found
from record import machine
from speed_cases import COMPILED, GROWTH
from steps import measure

__all__ = ["CASES", "contenders_of", "measure", "table"]

HERE = Path(__file__).parent
RESULTS, PICTURE = HERE / "results/growth.json", HERE.parent / "docs/growth.png"
CASES = {
    f"{axis}-{value}": case for axis, points in GROWTH.items() for value, case in points.items()
}
STYLES = {OURS: ("C0", "o"), OURS_EAGER: ("C1", "s"), COMPILED: ("C2", "^")}


def contenders_of(name: str, device: str) -> list[str]:
    return list(STYLES)


def table(name: str, found: Found, device: str) -> str:
    times = "   ".join(f"{name} {found.median(name):.3f} ms" for name in found.values)
    return f"{name:12}{times}"


def results(found: dict[str, Found], device: str) -> dict[str, Any]:
    """Data of the plot: milliseconds by axis, contender and value."""
    curves: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, of_name in found.items():
        axis, value = name.rsplit("-", 1)
        for contender in of_name.values:
            curve = curves.setdefault(axis, {}).setdefault(contender, {})
            curve[value] = of_name.median(contender)
    where = torch.cuda.get_device_name() if device == "cuda" else machine()
    return {
        "machine": where,
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "ms": curves,
    }


def write(found: dict[str, Found], device: str) -> None:
    """Save the measurements, and draw them."""
    RESULTS.write_text(json.dumps(results(found, device), indent=1) + "\n")
    redraw()


def redraw() -> None:
    draw(json.loads(RESULTS.read_text())).savefig(PICTURE, dpi=150)
    print(f"drew {PICTURE.name} from {RESULTS.name}")


def draw(measured: dict[str, Any]) -> Figure:
    """Draw a panel for each axis, both scales logarithmic."""
    axes = list(measured["ms"])
    figure, panels = plt.subplots(
        1,
        len(axes),
        figsize=(3.1 * len(axes), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, axis in zip(panels[0], axes, strict=True):
        panel(ax, axis, measured["ms"][axis])
    panels[0, 0].set_ylabel("ms per training step")
    panels[0, 0].legend(frameon=False)
    figure.suptitle(
        "VAE 784-200-200-50, batches of 100, K = 1; one of these changed in each panel\n"
        f"{measured['machine']}, {measured['threads']} threads, {measured['date']}",
        fontsize="medium",
    )
    return figure


def panel(ax: Axes, axis: str, curves: dict[str, dict[str, float]]) -> None:
    values: list[int] = []
    for contender, curve in curves.items():
        colour, marker = STYLES[contender]
        values = [int(value) for value in curve]
        ax.plot(values, list(curve.values()), color=colour, marker=marker, label=contender)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(values, [str(value) for value in values])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.grid(color="0.9")
    ax.set_xlabel({"depth": "hidden layers", "width": "units of a hidden layer"}.get(axis, axis))


if __name__ == "__main__":
    tyro.cli(redraw, description=__doc__)
