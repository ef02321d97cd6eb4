"""Arguments and labels of `SemiSupervised`, for both backends."""

import copy
from numbers import Real
from typing import Any

import numpy as np

from ppl_vae.shared.checks import (
    UNLABELLED,
    as_numpy,
    check_at_least,
    check_flag,
    check_labels,
    check_lengths,
    check_whole,
)


def check_settings(
    alpha: Any, analytic_kl: Any, fraction: Any, labelled_per_batch: Any, labelled_first: Any
) -> None:
    """Check the arguments of `SemiSupervised`."""
    check_at_least("alpha", alpha, 0)
    check_flag("analytic_kl", analytic_kl)
    check_whole("labelled_per_batch", labelled_per_batch, 1)
    if fraction is not None and not (isinstance(fraction, Real) and 0 <= float(fraction) <= 1):
        raise ValueError(f"labelled_fraction should lie in [0, 1], was {fraction!r}")
    if labelled_first is not None:
        check_whole("labelled_first", labelled_first, 0)


def check_data(model: Any, *data: Any) -> None:
    """Check that `data` are those of the model followed by labels, -1 for unlabelled data."""
    check_lengths(*data)
    if len(data) < 2:
        raise ValueError("data should be those of the pair and then the labels y, had 1 array")
    if not hasattr(model, "n_classes"):
        raise ValueError(
            "model should have n_classes, the number of classes of its site 'y', "
            f"which {type(model).__name__} has not"
        )
    *inputs, y = data
    model.check(*inputs)
    check_labels("y", y, model.n_classes, unlabelled=True)


def check_sites(draws: Any) -> None:
    """Check that model and guide have a site `y`, and that all sites lie in the data plate."""
    for sites in (draws.guide, draws.model):
        if "y" not in sites:
            raise ValueError(f"model and guide should have a site 'y', had {list(sites)}")
        for site in sites.values():
            if not site.local:
                raise ValueError(
                    f"site {site.name!r} should lie in the data plate, but it belongs to all data"
                )


def prepared(objective: Any, n_classes: int, y: Any) -> Any:
    """Return the objective with the labelled fraction and the order of batches of a data set."""
    labels: np.ndarray = as_numpy(y)
    known = labels != UNLABELLED
    missing = sorted(set(range(n_classes)) - set(labels[known].tolist()))
    if missing:
        raise ValueError(f"y should hold a label of every class, had none of {missing}")
    changed = copy.copy(objective)
    if changed.labelled_fraction is None:
        changed.labelled_fraction = float(known.mean())
    n_labelled = int(known.sum())
    first = n_labelled if known.all() else min(changed.labelled_per_batch, n_labelled)
    changed.labelled_first = first
    return changed
