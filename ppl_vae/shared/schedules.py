"""Schedules: numbers that depend on the epoch alone, for both backends."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from ppl_vae.shared.arguments import Configurable, constructor_call
from ppl_vae.shared.checks import check_fraction, check_positive, check_whole


class Schedule(Configurable):
    """A number for each epoch; epochs are counted from 1."""

    def __repr__(self) -> str:
        return constructor_call(self)

    @abstractmethod
    def __call__(self, epoch: Any) -> Any:
        """Return the number of an epoch, which may be a traced array."""


class Warmup(Schedule):
    """Linear warm-up of a weight to 1: start + (1 - start) min(1, epoch / epochs).

    Epochs are counted from 1, so the weight is above `start` in the first epoch.

    References:
        Sønderby, Raiko, Maaløe, Sønderby & Winther, "Ladder variational autoencoders", NeurIPS
        2016, arXiv:1602.02282 (`epochs` is its N_t); Bowman et al., "Generating
        sentences from a continuous space", CoNLL 2016, arXiv:1511.06349, section 3.1.

    Args:
        epochs: The first epoch of weight 1.
        start: The weight before the first epoch, in [0, 1].
    """

    def __init__(self, epochs: int, start: float = 0.0) -> None:
        check_whole("epochs", epochs, 1)
        check_fraction("start", start)
        self.epochs, self.start = epochs, start

    def __call__(self, epoch: Any) -> Any:
        progress = _at_most_one(epoch / self.epochs)
        return self.start + (1 - self.start) * progress


class ExponentialDecay(Schedule):
    """Exponential decay of a learning rate: start (end / start)^((epoch - 1) / (n - 1)).

    It is constant from epoch n on.

    Args:
        start: The learning rate in the first epoch.
        end: The learning rate from epoch n on.
        epochs: The number n of epochs, at least 2.
    """

    def __init__(self, start: float, end: float, epochs: int) -> None:
        check_positive("start", start)
        check_positive("end", end)
        check_whole("epochs", epochs, 2)
        self.start, self.end, self.epochs = start, end, epochs

    def __call__(self, epoch: Any) -> Any:
        progress = _at_most_one((epoch - 1) / (self.epochs - 1))
        return self.start * (self.end / self.start) ** progress


class Piecewise(Schedule):
    """Piecewise constant schedule; the last stage does not end.

    `Piecewise.burda(8)` is the learning rate of Burda et al.: 1e-3 * 10^(-i / 7) for 3^i epochs,
    i = 0, ..., 7, which are 3280 epochs.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, section 5 (the schedule of `burda`).

    Args:
        values: The number of each stage, positive.
        epochs: The number of epochs of each stage.
    """

    def __init__(self, values: Sequence[float], epochs: Sequence[int]) -> None:
        sequences = isinstance(values, Sequence) and isinstance(epochs, Sequence)
        if not (sequences and values and len(values) == len(epochs)):
            raise ValueError(
                "values and epochs should be sequences with an entry for each stage, were "
                f"{values!r} and {epochs!r}"
            )
        for value, length in zip(values, epochs, strict=True):
            check_positive("each of values", value)
            check_whole("each of epochs", length, 1)
        self.values, self.epochs = tuple(values), tuple(epochs)

    @classmethod
    def burda(cls, stages: int = 8) -> Self:
        """Return the learning rate of Burda et al. for (3^stages - 1) / 2 epochs."""
        check_whole("stages", stages, 1)
        return cls([1e-3 * 10 ** (-i / 7) for i in range(stages)], [3**i for i in range(stages)])

    def __call__(self, epoch: Any) -> Any:
        number, last = self.values[0], 0
        for length, value in zip(self.epochs, self.values[1:], strict=False):
            last += length
            number = (epoch > last) * value + (epoch <= last) * number
        return number


def _at_most_one(value: Any) -> Any:
    # min(value, 1) by arithmetic: compiled programs pass traced arrays, which min() cannot compare.
    return (value < 1) * value + (value >= 1) * 1
