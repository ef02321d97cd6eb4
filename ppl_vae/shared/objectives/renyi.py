"""Checks of the orders of the Renyi and chi bounds."""

from numbers import Real
from typing import Any

import numpy as np


def check_alpha(alpha: Any) -> None:
    """Check that the `alpha` of a Renyi bound is a number other than 1, or minus infinity."""
    if not (isinstance(alpha, Real) and -np.inf <= float(alpha) < np.inf):
        raise ValueError(f"alpha should be a number or -inf, was {alpha!r}")
    if alpha == 1:
        raise ValueError("alpha should not be 1, of which the limit is the ELBO: use ELBO(k)")


def check_order(n: Any) -> None:
    """Check that the order `n` of a chi upper bound is a finite number above 1."""
    if not (isinstance(n, Real) and 1 < float(n) < np.inf):
        raise ValueError(f"n should be a number above 1, was {n!r}")
