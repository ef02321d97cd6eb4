"""Default checks of a model's data, for both backends: base classes of models."""

from inspect import signature
from typing import Any

import numpy as np

from ppl_vae.shared.checks import (
    check_arguments,
    check_condition,
    check_labels,
    check_lengths,
    check_mask,
    check_matrix,
)


class DataChecks:
    """The default check of a model's data: one matrix x, or arrays of one length."""

    x_dim: int
    decoder: Any

    def check(self, *data: Any) -> None:
        """Check that `data` are valid arguments of `model`; a ValueError says what is wrong.

        By default a model of x alone that has an `x_dim` and a `decoder` takes a floating
        (n, x_dim) array in the decoder's support, and any other model takes arrays of one length.
        """
        of_x_alone = [*signature(type(self).model).parameters] == ["self", "x"]  # type: ignore[attr-defined]
        if of_x_alone and hasattr(self, "x_dim") and hasattr(self, "decoder"):
            check_arguments(data, ("x",))
            check_matrix("x", data[0], self.x_dim, *self.support(self.decoder))
        else:
            check_lengths(*data)

    @staticmethod
    def support(network: Any) -> tuple[float, float]:
        """Return the interval of values on which the distributions of `network` are defined."""
        low, high = getattr(network, "support", (-np.inf, np.inf))
        return float(low), float(high)


class LabelChecks(DataChecks):
    """The check of models whose data are x or (x, y), y a vector of classes."""

    n_classes: int

    def check(self, *data: Any) -> None:
        check_arguments(data, ("x",), ("x", "y"))
        check_matrix("x", data[0], self.x_dim, *self.support(getattr(self, "decoder", None)))
        for y in data[1:]:
            check_labels("y", y, self.n_classes)


class ConditionChecks(DataChecks):
    """The check of models whose data are (c, x) or (c, x, mask)."""

    c_dim: int

    def check(self, *data: Any) -> None:
        self.check_conditioned(self.decoder, *data)

    def check_conditioned(self, network: Any, *data: Any) -> None:
        """Check that `data` are (c, x) or (c, x, mask) with x in the support of `network`."""
        check_arguments(data, ("c", "x"), ("c", "x", "mask"))
        check_condition("c", data[0], self.c_dim)
        check_matrix("x", data[1], self.x_dim, *self.support(network))
        for mask in data[2:]:
            check_mask("mask", mask, self.x_dim)
