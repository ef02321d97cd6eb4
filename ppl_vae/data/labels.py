"""Hidden labels, for semi-supervised learning from a few labelled images."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.shared.checks import UNLABELLED, check_seed, check_whole


def hide_labels(
    y: npt.NDArray[np.integer[Any]], n_labels: int, seed: int, n_classes: int
) -> npt.NDArray[np.int64]:
    """Return a copy of `y` with `n_labels` labels, equally many of each class, and -1 elsewhere.

    If n_labels is not a multiple of n_classes, random classes get one label more.

    Args:
        y: Labels 0 .. n_classes - 1, integers, shape (n,).
        n_labels: Number of labels to keep, from n_classes to n.
        seed: Random seed of the choice.
        n_classes: Number of classes.

    Returns:
        int64 of shape (n,).

    Raises:
        ValueError: `y` is empty or has other values, `n_labels` is out of range, or a class has
            fewer examples than should be kept.
    """
    y = np.asarray(y)
    check_whole("n_classes", n_classes, 1)
    check_whole("n_labels", n_labels, 0)
    counts = _counts(y, n_classes)
    if not n_classes <= n_labels <= len(y):
        raise ValueError(
            f"n_labels should be in {n_classes}..{len(y)} (at least one per class, and no more "
            f"than there are), was {n_labels}"
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    kept = np.full(len(y), UNLABELLED, dtype=np.int64)
    for label, n in enumerate(_shares(counts, n_labels, rng)):
        chosen = rng.choice(np.flatnonzero(y == label), size=n, replace=False)
        kept[chosen] = label
    return kept


def _counts(y: npt.NDArray[np.integer[Any]], n_classes: int) -> npt.NDArray[np.int64]:
    """Return the number of examples per class, shape (n_classes,), after a check of `y`."""
    if y.ndim != 1 or len(y) == 0 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"y should be integers of shape (n,), n at least 1, was {y.dtype} of shape {y.shape}"
        )
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"y should be in 0..{n_classes - 1}, was in {y.min()}..{y.max()}")
    return np.bincount(y.astype(np.int64), minlength=n_classes)


def _shares(
    counts: npt.NDArray[np.int64], n_labels: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the number of labels to keep of each class, shape (n_classes,)."""
    n_classes = len(counts)
    each, remainder = divmod(n_labels, n_classes)
    if counts.min() < each:
        raise ValueError(
            f"y should have at least {each} examples of each class for n_labels = {n_labels}, "
            f"had {counts.min()} of class {counts.argmin()}"
        )
    # Only classes with another example, so that success does not depend on the seed.
    available = np.flatnonzero(counts > each)
    if len(available) < remainder:
        raise ValueError(
            f"y should have {remainder} classes of more than {each} examples for "
            f"n_labels = {n_labels}, had {len(available)}"
        )
    shares = np.full(n_classes, each, dtype=np.int64)
    shares[rng.choice(available, size=remainder, replace=False)] += 1
    return shares
