"""Resumable state of a partially completed epoch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.shared.checks import as_numpy
from ppl_vae.shared.training.turns import Turn


@dataclass
class EpochState:
    """The state of an epoch, which may be completed in several parts.

    Attributes:
        order: State of the data order's generator at the beginning of the epoch.
        state: The objective's state at the beginning of the epoch.
        done: Number of completed batches.
        losses: The losses of these batches, scalars.
        skipped: Number of skipped steps in previous parts.
        seconds: Duration of previous parts.
        since: Start time of this part.
    """

    order: Tensor
    state: dict[str, Tensor]
    done: int = 0
    losses: list[Tensor] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    @classmethod
    def begun(cls, order: torch.Generator, state: Mapping[str, Tensor]) -> Self:
        """Return the state of an epoch that begins now."""
        return cls(order.get_state(), {name: value.clone() for name, value in state.items()})

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], done: int, device: torch.device) -> Self:
        """Return the state that these `arrays` describe."""
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        state = {
            name.removeprefix("state."): value.to(device)
            for name, value in tensors.items()
            if name.startswith("state.")
        }
        skipped, seconds = int(tensors["skipped"]), float(tensors["seconds"])
        return cls(tensors["order"], state, done, list(tensors["losses"]), skipped, seconds)

    def arrays(self, skipped: int) -> dict[str, np.ndarray]:
        """Return the arrays for `restored`; `skipped` counts the skipped steps of this part."""
        return {
            "order": self.order.numpy(),
            "losses": self.values(),
            "skipped": np.array(self.skipped + skipped),
            "seconds": np.array(self.elapsed()),
            **{f"state.{name}": as_numpy(value) for name, value in self.state.items()},
        }

    def elapsed(self) -> float:
        """Return the duration in seconds, including previous parts."""
        return self.seconds + time.perf_counter() - self.since

    def values(self) -> np.ndarray:
        """Return the losses so far, shape (done,)."""
        if not self.losses:
            return np.zeros(0)
        device = self.losses[-1].device
        values = torch.stack([loss.to(device) for loss in self.losses])
        return as_numpy(values.double())

    def plan(
        self,
        order: torch.Generator,
        cut: Callable[[], list[Tensor]],
        turns: Sequence[Turn],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the indices of each batch, and of the batches that turns with a window draw from.

        Args:
            order: Generator of the data order. Its state is restored if the epoch is resumed.
            cut: A function that returns the indices of each batch in a random order by `order`.
            turns: The turns of the epoch.
        """
        now = order.get_state()
        order.set_state(self.order)
        indices = cut()
        others = cut() if any(turn.window is not None for turn in turns) else []
        if self.done > 0:
            order.set_state(now)
        return indices, [index for index in others if len(index) == len(others[0])]
