"""Which parameters are stepped on the way through a batch, for both backends."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Turn:
    """Steps of one group of parameters, while the others stay as they are.

    Attributes:
        group: The parameters that are stepped, by their `Objective.group_of`; None for all.
        max_steps: The largest number of steps.
        window: None for one step, on the epoch's batch. Else steps are on batches that are chosen
            at random, until the mean loss of `window` of them is not below that of the window
            before.
    """

    group: str | None = None
    max_steps: int = 1
    window: int | None = None

    def over(self, losses: Any, taken: Any) -> Any:
        """Whether no step follows; numbers may be what a compiled program has in their place.

        Args:
            losses: The losses of the steps so far, zero-padded to shape (max_steps,).
            taken: The number of these, at least 1.
        """
        if self.window is None:
            return True
        place = np.arange(self.max_steps)
        last, before = (
            (losses * ((place >= taken - ago) & (place < taken - ago + self.window))).sum()
            for ago in (self.window, 2 * self.window)
        )
        compared = (taken % self.window == 0) & (taken >= 2 * self.window)
        return (taken >= self.max_steps) | (compared & (last >= before))
