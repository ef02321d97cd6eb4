"""The watch over the steps of a run: which one was at fault, and why."""

from dataclasses import dataclass

import pyro
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.training import faults
from ppl_vae.inference.training.step import Step
from ppl_vae.shared.training.faults import nothing_left

CHECK_EVERY = {"cpu": 1}
"""Steps between looks for a fault, by the type of device; to look is to wait for the device."""
OTHERWISE = 50


@dataclass(frozen=True)
class Taken:
    """What it takes to run a step again, and to say where it was."""

    index: Tensor
    where: str
    random: tuple[Tensor, ...]


class FaultWatch:
    """The steps since the last look for a fault.

    Args:
        svi: The step.
        batches: What it takes its data of.

    Attributes:
        last: The step that was begun last.
    """

    def __init__(self, svi: Step, batches: Batches) -> None:
        self.svi, self.batches = svi, batches
        self.last: Taken | None = None
        self.recent: list[Taken] = []

    def begins(self, index: Tensor, where: str) -> None:
        """A step of the batch at `index` is taken next."""
        self.last = Taken(index, where, random_state.of_draws(self.batches.device))
        self.recent.append(self.last)

    def check_if_due(self) -> None:
        """Looks for a fault where so many steps were taken since the last look."""
        if len(self.recent) >= CHECK_EVERY.get(self.batches.device.type, OTHERWISE):
            self.look()

    def look(self) -> None:
        """Whether a step since the last look was at fault.

        Raises:
            faults.Fault: one was, and nothing was changed since.
        """
        bad = int(self.svi.skipped)
        if bad and self.svi.stops:
            raise self.fault(self.recent[-bad])
        self.recent.clear()

    def fault(self, taken: Taken) -> faults.Fault:
        """What was at fault in a step that changed nothing.

        Where steps are skipped that is asked only if all of an epoch were; this is the first.
        """
        random_state.set_draws(taken.random, self.batches.device)
        buffers, batch = self.svi.slots.saved_buffers(), self.batches[taken.index]
        with pyro.validation_enabled(False):
            says = faults.found(self.svi, batch, taken.where)
        self.svi.slots.restore(buffers)
        if not self.svi.stops:
            says = nothing_left(self.svi.epoch, says)
        return faults.Fault(says, taken.index, batch)
