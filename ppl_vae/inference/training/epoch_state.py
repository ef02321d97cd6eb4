"""An epoch that is under way, so that a run that is stopped in the midst of it goes on there."""

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
    """A pass over the data.

    Attributes:
        order: The state of the generator of orders when it began.
        state: The objective's numbers when it began.
        done: The number of batches that are done.
        losses: Their losses, scalars.
        skipped: How many steps changed nothing, in parts of the pass that were saved.
        seconds: How long these parts took.
        since: When this part began.
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
        """A pass that begins now."""
        return cls(order.get_state(), {name: value.clone() for name, value in state.items()})

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], done: int, device: torch.device) -> Self:
        """The pass whose `arrays` these are."""
        found = {name: torch.tensor(array) for name, array in arrays.items()}
        state = {
            name.removeprefix("state."): value.to(device)
            for name, value in found.items()
            if name.startswith("state.")
        }
        skipped, seconds = int(found["skipped"]), float(found["seconds"])
        return cls(found["order"], state, done, list(found["losses"]), skipped, seconds)

    def arrays(self, skipped: int) -> dict[str, np.ndarray]:
        """What `restored` needs, with the number of steps of this part that changed nothing."""
        return {
            "order": self.order.numpy(),
            "losses": self.values(),
            "skipped": np.array(self.skipped + skipped),
            "seconds": np.array(self.elapsed()),
            **{f"state.{name}": as_numpy(value) for name, value in self.state.items()},
        }

    def elapsed(self) -> float:
        """Seconds, those of the saved parts included."""
        return self.seconds + time.perf_counter() - self.since

    def values(self) -> np.ndarray:
        """The losses so far, (done,)."""
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
        """The indices of each batch, and of those that turns with a window choose from.

        Args:
            order: The generator of orders, which goes on where it was if the pass did not just
                begin.
            cut: A random order of the data by `order`, cut into batches.
            turns: Of this pass.
        """
        now = order.get_state()
        order.set_state(self.order)
        indices = cut()
        again = cut() if any(turn.window is not None for turn in turns) else []
        if self.done > 0:
            order.set_state(now)
        return indices, [index for index in again if len(index) == len(again[0])]
