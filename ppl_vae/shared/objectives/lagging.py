"""Arguments and stopping rule of `Lagging`, for both backends."""

from collections.abc import Collection
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.training.turns import Turn


def check_lagging(max_steps: int, window: int, patience: int, subset: int) -> None:
    """Check the arguments of `Lagging`, and raise a ValueError that names a wrong one."""
    check_whole("window", window, 1)
    Turn(None, max_steps, window)
    check_whole("patience", patience, 1)
    check_whole("subset", subset, 2)


def check_wrapped(objective: Any) -> None:
    """Check that `objective` is a loss of one pair of densities, with a single phase."""
    kind = type(objective).__name__
    if kind in ("Lagging", "SemiSupervised"):
        raise ValueError(
            "objective should be a bound of log p(x) of one pair of densities p(x, z) and "
            f"q(z | x), such as ELBO(), was {kind}"
        )


def only_guide(of_guide: Collection[str], of_model: Collection[str]) -> list[str]:
    """Return the names of the parameters that belong to the guide alone.

    Args:
        of_guide: Names of the parameters that log q depends on at given draws.
        of_model: Names of those that log p depends on.

    Raises:
        ValueError: There are none.
    """
    own = [name for name in of_guide if name not in of_model]
    if not own:
        raise ValueError(
            "guide should have trained parameters of its own, that log q(z | x) depends on and "
            "log p(x, z) does not, had none: it cannot lag behind the model, train by ELBO"
        )
    return own


def still_lagging(left: float, best: float, found: float) -> tuple[float, float]:
    """Update the remaining patience and the largest mutual information.

    Args:
        left: Number of further epochs that may pass without an increase, at least 1.
        best: The largest mutual information so far.
        found: The mutual information after this epoch.
    """
    found = float(np.float32(found))  # the precision of a checkpoint
    return (left - 1.0, best) if found < best else (left, found)
