"""Interpolation along a graph of codes instead of along a straight line."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.shared.checks import as_numpy, check_matrix, check_whole

Codes = npt.NDArray[np.floating[Any]]


def path_along_graph(nodes: Any, start: Any, end: Any, n_neighbours: int = 18) -> Codes:
    """Return the shortest path through the graph between the nodes nearest to two codes.

    Nodes are joined to their nearest neighbours by edges as long as their Euclidean distance. With
    nodes from a learned prior (of a `VHP`: the means of p(z | zeta) with zeta drawn from p(zeta)),
    the path stays where the prior has its mass.

    References:
        Klushyn, Chen, Kurle, Cseke & van der Smagt, "Learning hierarchical priors in VAEs",
        NeurIPS 2019, arXiv:1905.04982 (graph-based interpolation).

    Differs from the paper:
        Dijkstra's algorithm, which finds the same paths (the paper: A*).

    Args:
        nodes: Codes, the nodes of the graph, shape (n, z_dim).
        start: Code whose nearest node is the path's start, shape (z_dim,).
        end: Code whose nearest node is the path's end, shape (z_dim,).
        n_neighbours: Number of nearest neighbours of each node. An edge joins two nodes if
            either is among the nearest neighbours of the other.

    Returns:
        The nodes on the path, both ends included, shape (m, z_dim).

    Raises:
        ValueError: The graph has no path between the two, or an argument is invalid.
    """
    from scipy.sparse.csgraph import dijkstra
    from sklearn.neighbors import kneighbors_graph

    codes = as_numpy(nodes)
    if codes.ndim != 2 or not len(codes):
        raise ValueError(f"nodes should have shape (n, z_dim), had {codes.shape}")
    check_matrix("nodes", codes, codes.shape[1])
    first, last = (_nearest(codes, n, code) for n, code in (("start", start), ("end", end)))
    check_whole("n_neighbours", n_neighbours, 1)
    if n_neighbours >= len(codes):
        raise ValueError(
            f"n_neighbours should be below the number of nodes, {len(codes)}, was {n_neighbours}"
        )
    edges = kneighbors_graph(codes, n_neighbours, mode="distance")
    _, before = dijkstra(edges, directed=False, indices=first, return_predecessors=True)
    path = [last]
    while path[-1] != first:
        if before[path[-1]] < 0:
            raise ValueError(
                "n_neighbours should be large enough for a path between start and end, was "
                f"{n_neighbours}"
            )
        path.append(before[path[-1]])
    return codes[path[::-1]]


def evenly(path: Any, n: int) -> Codes:
    """Return n equidistant points along the straight pieces of a path, both ends included.

    Args:
        path: Codes, shape (m, z_dim).
        n: Number of points, at least 2.
    """
    check_whole("n", n, 2)
    codes = as_numpy(path)
    if codes.ndim != 2 or not len(codes):
        raise ValueError(f"path should have shape (m, z_dim), had {codes.shape}")
    steps = np.linalg.norm(np.diff(codes, axis=0), axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, travelled[-1], n)
    return np.stack([np.interp(at, travelled, column) for column in codes.T], axis=1)


def _nearest(codes: Codes, name: str, code: Any) -> int:
    """Return the index of the code nearest to `code`."""
    point = as_numpy(code)
    if point.shape != codes.shape[1:]:
        raise ValueError(f"{name} should have shape {codes.shape[1:]}, had {point.shape}")
    if not np.isfinite(point).all():
        raise ValueError(f"{name} should be finite, held NaN or infinity")
    return int(np.linalg.norm(codes - point, axis=1).argmin())
