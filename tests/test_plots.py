"""Pictures: what is drawn, where, and what is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ppl_vae import plots


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
