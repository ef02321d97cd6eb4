"""Hiding labels: which few images of a data set a semi-supervised learner is told about."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.shared.checks import check_seed, check_whole

UNLABELLED = -1
"""The label of an unlabelled image, scikit-learn's convention."""


def hide_labels(
    y: npt.NDArray[np.integer[Any]], n_labels: int, seed: int, n_classes: int
) -> npt.NDArray[np.int64]:
    """A copy of `y` with `n_labels` labels kept, equally many of each class, and the others -1.

    Where n_labels is no multiple of n_classes, the remainder goes to random classes, one each.

    Arguments:
        y: labels 0 .. n_classes - 1, integers, shape (n,).
        n_labels: how many to keep, from n_classes to n.
        seed: which to keep; the same seed keeps the same ones.
        n_classes: the number of classes.

    Returns:
        int64 of shape (n,).

    Raises:
        ValueError: `y` is empty or has other values, `n_labels` is out of range, or a class has
            fewer examples than are to be kept of it.
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
    """Examples per class, shape (n_classes,), of a `y` that is found in order."""
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
    """How many labels to keep of each class, shape (n_classes,)."""
    n_classes = len(counts)
    each, remainder = divmod(n_labels, n_classes)
    if counts.min() < each:
        raise ValueError(
            f"y should have at least {each} examples of each class for n_labels = {n_labels}, "
            f"had {counts.min()} of class {counts.argmin()}"
        )
    # Only classes that can spare one more, so that success does not depend on the seed.
    able = np.flatnonzero(counts > each)
    if len(able) < remainder:
        raise ValueError(
            f"y should have {remainder} classes of more than {each} examples for "
            f"n_labels = {n_labels}, had {len(able)}"
        )
    shares = np.full(n_classes, each, dtype=np.int64)
    shares[rng.choice(able, size=remainder, replace=False)] += 1
    return shares
