"""Comparison of the arrays of two backends."""

import numpy as np


def check_samples(name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Check that two samples of a parameter's initial values have one distribution."""
    for what, power in (("mean", 1), ("mean square", 2)):
        one, two = a**power, b**power
        error = np.sqrt(one.var() / one.size + two.var() / two.size)
        _check_statistic(name, what, one.mean(), two.mean(), 5.0 * error)
    both = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(side), both, side="right") / side.size for side in (a, b)]
    at = int(np.abs(below[0] - below[1]).argmax())
    what = f"fraction of values up to {both[at]:.3g}"
    _check_statistic(name, what, below[0][at], below[1][at], 2.7 * np.sqrt(1 / a.size + 1 / b.size))
    # The largest of n uniform values lies within 14 / n of the end, with probability 1 - 1e-6.
    one, two = np.abs(a).max(), np.abs(b).max()
    if a.std() > 0.5 * one:  # uniform values; not for distributions with tails
        _check_statistic(name, "largest size", one, two, 14 / min(a.size, b.size) * max(one, two))


def _check_statistic(name: str, what: str, ours: float, theirs: float, most: float) -> None:
    if not abs(ours - theirs) <= most + 1e-12:
        raise AssertionError(
            f"parameter {name!r} is not initialised alike: {what} is {ours:.4g} in Pyro, "
            f"{theirs:.4g} in NumPyro (chance explains a difference of {most:.2g})"
        )


def check_names(what: str, ours: set[str], theirs: set[str]) -> None:
    """Check that both backends have the same names."""
    if ours != theirs:
        raise AssertionError(
            f"{what}s should have the same names, but only Pyro has {sorted(ours - theirs)} "
            f"and only NumPyro has {sorted(theirs - ours)}"
        )


def check_arrays(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Check that two arrays are equal up to the tolerance, relative for numbers above 1."""
    # A dimension of size 1 that one backend leaves to broadcasting does not count.
    try:
        np.broadcast_shapes(ours.shape, theirs.shape)
    except ValueError as error:
        raise AssertionError(
            f"{what} has shape {ours.shape} in Pyro, {theirs.shape} in NumPyro"
        ) from error
    difference = np.abs(ours - theirs) / np.maximum(1, np.abs(ours))
    if not (difference <= tolerance).all():
        raise AssertionError(
            f"{what} should be the same in both backends, differs by up to "
            f"{np.nanmax(difference):.3g} (tolerance {tolerance:g})"
        )
