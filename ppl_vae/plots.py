"""Plots. Every function draws on `ax`, by default on a new figure, and returns it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ppl_vae.shared.evaluation.calibration import Calibration
from ppl_vae.shared.training.history import History

MAX_CURVES_WITH_INSIDE_LEGEND = 4
"""With more curves the legend is drawn outside the axes."""
MAX_COLOURED_UNITS = 4
"""Latent units that get a colour of their own in `ranks`."""


def curves(
    histories: Mapping[str, Sequence[History]], column: str = "loss", ax: Axes | None = None
) -> Axes:
    """Plot a column of the training history against the epoch.

    Args:
        histories: Name -> the histories of its runs (thin lines; the thick one is their mean).
        column: Which number of the history.
        ax: Where to draw.
    """
    ax = _axes(ax, (5.0 if len(histories) <= MAX_CURVES_WITH_INSIDE_LEGEND else 7.0, 3.5))
    for number, (name, runs) in enumerate(histories.items()):
        colour = f"C{number}"
        for run in runs:
            ax.plot(run["epoch"], run[column], color=colour, linewidth=0.6, alpha=0.5)
        mean = np.mean([run[column] for run in runs], axis=0)
        ax.plot(runs[0]["epoch"], mean, color=colour, linewidth=2.0, label=name)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(column.replace("_", " "))
    _legend(ax, beside=len(histories) > MAX_CURVES_WITH_INSIDE_LEGEND)
    return ax


def image_grid(
    rows: Any,
    image_shape: tuple[int, int],
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot grey-level images in rows and columns, black for 1.

    Args:
        rows: Pixels in [0, 1], shape (n_rows, n_columns, height * width).
        image_shape: (height, width).
        row_labels: A text left of each row.
        column_labels: A text above each column.
        ax: Where to draw.

    Raises:
        ValueError: the pixels do not make images of that shape.
    """
    pixels = np.asarray(rows)
    height, width = image_shape
    if pixels.ndim != 3 or pixels.shape[2] != height * width:
        raise ValueError(
            f"rows should have shape (n_rows, n_columns, {height * width}), had {pixels.shape}"
        )
    n_rows, n_columns = pixels.shape[:2]
    ax = _axes(ax, (0.5 * n_columns + 0.8, 0.5 * n_rows + 0.8))
    # A border of one white pixel around every image.
    framed = np.zeros((n_rows, n_columns, height + 1, width + 1))
    framed[:, :, :height, :width] = pixels.reshape(n_rows, n_columns, height, width)
    sheet = framed.transpose(0, 2, 1, 3).reshape(n_rows * (height + 1), n_columns * (width + 1))
    ax.imshow(sheet, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    _label(ax.yaxis, row_labels, height)
    _label(ax.xaxis, column_labels, width)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def bars(groups: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Plot grouped bars: one colour per group, one position per name.

    Args:
        groups: Name of a group -> name of a bar -> its height; groups need not have all the names.
        ax: Where to draw.
    """
    places = list(dict.fromkeys(name for values in groups.values() for name in values))
    ax = _axes(ax, (3.2 + 1.0 * max(len(places), 3), 3.5))
    width = 0.8 / max(len(groups), 1)
    for number, (group, values) in enumerate(groups.items()):
        offset = (number - (len(groups) - 1) / 2) * width
        at = [places.index(name) + offset for name in values]
        ax.bar(at, list(values.values()), width, color=f"C{number}", label=group)
    ax.set_xticks(range(len(places)), places)
    _legend(ax, beside=True)
    return ax


def scatter(
    points: Mapping[str, Any], ax: Axes | None = None, *, colours: Sequence[str] | None = None
) -> Axes:
    """Plot groups of points in the plane, one colour per group.

    Args:
        points: Name -> the points of the group, shape (n, 2).
        ax: Where to draw.
        colours: Those of the groups, by default matplotlib's, which are ten.

    Raises:
        ValueError: the points are not of the plane.
    """
    ax = _axes(ax, (5.0, 4.5))
    for number, (name, group) in enumerate(points.items()):
        at = np.asarray(group)
        if at.ndim != 2 or at.shape[1] != 2:
            raise ValueError(f"points should have shape (n, 2), had {at.shape} in {name!r}")
        colour = f"C{number}" if colours is None else colours[number]
        ax.scatter(at[:, 0], at[:, 1], s=5.0, color=colour, linewidths=0.0, label=name)
    ax.legend(frameon=False, markerscale=3.0)
    return ax


def ranks(calibration: Calibration, ax: Axes | None = None) -> Axes:
    """Plot histograms of the ranks of latent units, with the interval expected for uniform ranks.

    Units whose ranks are not uniform (`Calibration.uneven`) have colours and names, the four worst
    of them; others of these are black, and those that are uniform grey. 99 of 100 counts of a bin
    lie in the grey band, were ranks uniform.

    Args:
        calibration: What `ppl_vae.inference.calibration` found.
        ax: Where to draw.
    """
    from scipy.stats import binom  # scikit-learn depends on scipy

    ax = _axes(ax, (7.0, 3.5))
    n, bins = calibration.n, calibration.bins
    at = (np.arange(bins) + 0.5) * (calibration.k + 1) / bins - 0.5
    ax.axhspan(*binom.interval(0.99, n, 1 / bins), color="0.9", zorder=0)
    flags = calibration.uneven()
    units = [
        (name, unit, heights)
        for name, counts in calibration.counts.items()
        for unit, heights in enumerate(counts)
    ]
    units.sort(key=lambda found: -float(((found[2] - n / bins) ** 2).sum()))
    uneven = [found for found in units if flags[found[0]][found[1]]]
    even = [found for found in units if not flags[found[0]][found[1]]]
    for number, (name, unit, heights) in enumerate(uneven[:MAX_COLOURED_UNITS]):
        strong: Any = {"linewidth": 2.0, "zorder": 3, "label": f"{name}, unit {unit}"}
        ax.plot(at, heights, color=f"C{number}", **strong)
    rest = (
        (uneven[MAX_COLOURED_UNITS:], "0.0", "more not uniform"),
        (even, "0.6", "uniform"),
    )
    for several, colour, text in rest:
        for number, (_, _, heights) in enumerate(several):
            label = None if number else f"{len(several)} {text}"
            ax.plot(at, heights, color=colour, linewidth=0.6, label=label)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(f"rank of what was simulated among {calibration.k} draws")
    ax.set_ylabel("count")
    _legend(ax, beside=True)
    return ax


def comparison(
    histories: Mapping[str, History], table: Any, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw the ELBO after each epoch, and log p(x) at the end with its standard error.

    Args:
        histories: Name -> the history of a run, with the column "elbo".
        table: The result of `ppl_vae.inference.compare`.
        axes: Two axes; by default those of a new figure.
    """
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(11.0, 3.8), layout="constrained")[1]
    left, right = axes
    curves({name: [history] for name, history in histories.items()}, "elbo", left)
    left.set_ylabel("ELBO of the test data (nats per datum)")
    places = np.arange(len(table))
    for place, (name, values) in enumerate(table.iterrows()):
        style: Any = {"color": f"C{place}", "label": name, "capsize": 3.0, "fmt": "o"}
        right.errorbar(place, values["log_likelihood"], values["standard_error"], **style)
    right.set_xticks(places, list(table.index), rotation=30, ha="right")
    right.set_ylabel("log p(x) (nats per datum)")
    right.set_xlim(-0.5, len(table) - 0.5)
    return axes


def _legend(ax: Axes, beside: bool) -> None:
    """Draw the legend right of the axes, or where it covers least."""
    if beside:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        ax.legend(frameon=False)


def _label(axis: Any, labels: Sequence[str] | None, size: int) -> None:
    texts = list(labels or [])
    axis.set_ticks([(size + 1) * i + (size - 1) / 2 for i in range(len(texts))], texts)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    _, new = plt.subplots(figsize=size, layout="constrained")
    return new
