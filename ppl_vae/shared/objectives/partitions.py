"""Partitions of [0, 1], for both backends."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_whole

LOG_FIRST = -1.09


def edges_of(partitions: int | Sequence[float]) -> tuple[float, ...]:
    """Return the points 0 = beta_0 < beta_1 < ... < beta_P = 1, given as such or by their number P.

    For a number, points are log-spaced from beta_1 = 10^-1.09 (about 0.08) to beta_P = 1.
    """
    given: Any = partitions  # a number of any integral type
    if isinstance(given, Integral):
        check_whole("partitions", given, 1)
        points = np.logspace(LOG_FIRST, 0, int(given)) if int(given) > 1 else np.ones(1)
        return (0.0, *points.tolist())
    if not _increase_from_0_to_1(given):
        raise ValueError(
            "partitions should be a number of intervals or points that increase from 0 to 1, "
            f"was {given!r}"
        )
    return tuple(float(point) for point in given)


def _increase_from_0_to_1(points: Any) -> bool:
    if not (isinstance(points, Sequence) and len(points) > 1):
        return False
    if not all(isinstance(point, Real) for point in points):
        return False
    return points[0] == 0 and points[-1] == 1 and bool(np.all(np.diff(points) > 0))
