"""Paths along a graph of codes, on graphs whose shortest paths are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ppl_vae.inference import evenly, path_along_graph

ANGLES = np.linspace(0.0, math.pi, 60)
HORSESHOE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def length(path: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def test_the_path_stays_on_a_horseshoe() -> None:
    order = np.random.default_rng(0).permutation(60)
    path = path_along_graph(HORSESHOE[order], [1.02, -0.01], [-1.1, 0.0], n_neighbours=2)
    np.testing.assert_array_equal(path[[0, -1]], HORSESHOE[[0, -1]])
    assert np.isin(path, HORSESHOE).all()
    assert len(path) >= 58  # a node at an end has its two neighbours on one side
    assert length(path) == pytest.approx(math.pi, rel=1e-3)
    middle = evenly(path, 3)[1]
    np.testing.assert_allclose(middle, [0.0, 1.0], atol=1e-2)
    longer = path_along_graph(HORSESHOE, HORSESHOE[50], HORSESHOE[3], n_neighbours=6)
    assert np.isin(longer, HORSESHOE).all()
    assert length(longer) == pytest.approx(ANGLES[50] - ANGLES[3], rel=1e-2)
    assert len(longer) < 48  # with more neighbours it takes longer steps


def test_edges_go_both_ways() -> None:
    """The last node is nobody's nearest neighbour."""
    nodes = torch.tensor([[0.0], [1.0], [1.9], [10.0]])
    for way in (1, -1):
        ends = [[9.0], [-1.0]][::way]
        path = path_along_graph(nodes, *ends, n_neighbours=1)
        np.testing.assert_array_equal(path, nodes.flip(0) if way == 1 else nodes)


def test_edges_count_by_their_length() -> None:
    """The path takes the short way in many steps, not the long way in few."""
    short = np.stack([np.arange(11.0), np.zeros(11)], axis=1)
    long = np.array([[-4.0, -3.0], [0.0, -8.0], [5.0, -9.0], [10.0, -8.0], [14.0, -3.0]])
    nodes = np.concatenate([short, long])
    path = path_along_graph(nodes, short[0], short[-1], n_neighbours=2)
    assert length(path) == 10.0
    assert len(path) > 2 + len(long)


def test_a_path_of_one_node() -> None:
    path = path_along_graph(HORSESHOE, [1.0, 0.0], [1.1, 0.0], n_neighbours=3)
    np.testing.assert_array_equal(path, HORSESHOE[:1])
    np.testing.assert_array_equal(evenly(path, 4), HORSESHOE[[0, 0, 0, 0]])


def test_points_are_evenly_spaced() -> None:
    path = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
    expected = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]
    np.testing.assert_allclose(evenly(path, 5), expected)


NAN = np.where(np.arange(60)[:, None] == 3, np.nan, HORSESHOE)
TWO = np.concatenate([HORSESHOE, HORSESHOE + 100.0])
WRONG: dict[str, tuple[Any, str]] = {
    "nodes": (lambda: path_along_graph(HORSESHOE[0], [0.0], [1.0]), r"nodes .*\(n, z_dim\)"),
    "nan": (lambda: path_along_graph(NAN, *NAN[:2]), "nodes should be finite"),
    "start": (
        lambda: path_along_graph(HORSESHOE, [1.0], [1.0, 0.0]),
        r"start .*\(2,\), had \(1,\)",
    ),
    "end": (lambda: path_along_graph(HORSESHOE, [1.0, 0.0], [1.0, math.nan]), "end .*finite"),
    "none": (lambda: path_along_graph(TWO, *TWO[:2], n_neighbours=0), "n_neighbours .* was 0"),
    "many": (
        lambda: path_along_graph(HORSESHOE, *HORSESHOE[:2], n_neighbours=60),
        "n_neighbours should be below the number of nodes, 60, was 60",
    ),
    "apart": (
        lambda: path_along_graph(TWO, TWO[0], TWO[-1], n_neighbours=5),
        "n_neighbours should be large enough for a path between start and end, was 5",
    ),
    "n": (lambda: evenly(HORSESHOE, 1), "n should be a whole number of at least 2, was 1"),
    "path": (lambda: evenly(HORSESHOE[:0], 3), r"path should have shape \(m, z_dim\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
