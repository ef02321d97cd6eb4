"""Pictures: what is drawn, where, and what is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from ppl_vae import plots
from ppl_vae.shared.training.history import History


def test_scatter_draws_each_group_on_the_axes_it_is_given() -> None:
    groups = {"a": np.array([[0.0, 1.0], [2.0, 3.0]]), "b": np.array([[4.0, 5.0]])}
    figure, ax = plt.subplots()
    assert plots.scatter(groups, ax, colours=["0.8", "C1"]) is ax
    drawn = [np.asarray(points.get_offsets()) for points in ax.collections]
    for points, group in zip(drawn, groups.values(), strict=True):
        np.testing.assert_array_equal(points, group)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    plt.close(figure)
    plt.close(plots.scatter(groups).figure)  # on a new figure
    with pytest.raises(ValueError, match=r"points should have shape \(n, 2\), had \(2, 3\) in 'a'"):
        plots.scatter({"a": np.zeros((2, 3))})
    plt.close("all")


def test_bars_stand_side_by_side_at_their_names() -> None:
    ax = plots.bars({"one": {"z_1": 2.0, "z_2": 0.5}, "two": {"z_2": 1.0}})
    drawn = {(round(bar.get_x() + bar.get_width() / 2, 2), bar.get_height()) for bar in ax.patches}
    assert drawn == {(-0.2, 2.0), (0.8, 0.5), (1.2, 1.0)}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["z_1", "z_2"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
    plt.close("all")


@pytest.mark.parametrize(
    "n", [plots.MAX_CURVES_WITH_INSIDE_LEGEND, plots.MAX_CURVES_WITH_INSIDE_LEGEND + 1]
)
def test_a_legend_without_room_among_the_curves_stands_beside_them(n: int) -> None:
    history = History(None, [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}], None)
    ax = plots.curves({f"a model of a long name, {i}": [history] for i in range(n)})
    assert (legend(ax).x0 >= ax.get_window_extent().x1) == (n > plots.MAX_CURVES_WITH_INSIDE_LEGEND)
    plt.close("all")


def test_the_legend_of_bars_stands_beside_them_and_in_the_picture() -> None:
    ax = plots.bars({f"a model of a long name, {i}": {"z_1": 1.0} for i in range(8)})
    assert legend(ax).x0 >= ax.get_window_extent().x1
    assert legend(ax).x1 <= ax.figure.bbox.x1
    assert legend(ax).y0 >= ax.figure.bbox.y0
    plt.close("all")


def legend(ax: Axes) -> Bbox:
    """Where the legend is, in pixels."""
    ax.figure.canvas.draw()
    return ax.get_legend().get_window_extent()


def test_epochs_are_whole_numbers_on_the_axis() -> None:
    history = History(None, [{"epoch": float(i), "loss": 1.0} for i in range(1, 21)], None)
    ticks = plots.curves({"a": [history]}).get_xticks()
    assert len(ticks) > 2
    np.testing.assert_array_equal(ticks, np.round(ticks))
    plt.close("all")
