"""Update schedule: which parameter groups are updated for each batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_whole


@dataclass(frozen=True)
class Turn:
    """Updates of one group of parameters, while the others stay constant.

    Without a window a turn is one step on the batch of the epoch. With a window its steps are on
    batches chosen at random, until the mean loss over `window` steps is not below that of the
    window before, or `max_steps` were taken.

    Attributes:
        group: The parameters to update, by their `Objective.group_of`; None for all.
        max_steps: Maximum number of steps, at least 2 windows.
        window: Number of steps whose mean losses are compared, or None for a single step.

    Raises:
        ValueError: An argument is invalid.
    """

    group: str | None = None
    max_steps: int = 1
    window: int | None = None

    def __post_init__(self) -> None:
        check_whole("max_steps", self.max_steps, 1)
        if self.window is None:
            if self.max_steps > 1:
                raise ValueError(
                    "window should be a number of steps where a turn has several, was None with "
                    f"max_steps {self.max_steps}"
                )
            return
        check_whole("window", self.window, 1)
        if self.max_steps < 2 * self.window:
            raise ValueError(
                f"max_steps should be at least 2 window = {2 * self.window}, as two windows are "
                f"compared, was {self.max_steps}"
            )

    def over(self, losses: Any, taken: Any) -> Any:
        """Whether the turn is complete; arguments may be traced arrays.

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
