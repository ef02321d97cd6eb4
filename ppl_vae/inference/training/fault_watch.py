"""Detection of non-finite losses and gradients in the steps of a run."""

from dataclasses import dataclass

import pyro
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.training import faults
from ppl_vae.inference.training.step import Step
from ppl_vae.shared.training.faults import nothing_left

CHECK_EVERY = {"cpu": 1}
"""Steps between checks, by type of device; each check synchronises with the device."""
CHECK_EVERY_ELSEWHERE = 50


@dataclass(frozen=True)
class StepRecord:
    """A record of a step, with which it can be repeated and located.

    Attributes:
        index: The batch's indices in the data set.
        where: Epoch and batch, in words.
        random: The state of torch's random number generators before the step.
    """

    index: Tensor
    where: str
    random: tuple[Tensor, ...]


class FaultWatch:
    """The steps since the last check for non-finite losses and gradients.

    Args:
        step: The training step.
        batches: The data set.

    Attributes:
        last: The step that began last.
    """

    def __init__(self, step: Step, batches: Batches) -> None:
        self.step, self.batches = step, batches
        self.last: StepRecord | None = None
        self.recent: list[StepRecord] = []

    def begin_step(self, index: Tensor, where: str) -> None:
        """Record that a step of the batch at `index` is taken next."""
        self.last = StepRecord(index, where, random_state.of_draws(self.batches.device))
        self.recent.append(self.last)

    def check_if_due(self) -> None:
        """Check if enough steps were taken since the last check."""
        every = CHECK_EVERY.get(self.batches.device.type, CHECK_EVERY_ELSEWHERE)
        if len(self.recent) >= every:
            self.check()

    def check(self) -> None:
        """Check the steps since the last check.

        Raises:
            faults.Fault: A loss or gradient was not finite, and nothing has changed since.
        """
        bad = int(self.step.skipped)
        if bad and self.step.rule.stops:
            raise self.fault(self.recent[-bad])
        self.recent.clear()

    def fault(self, record: StepRecord) -> faults.Fault:
        """Repeat a step that changed nothing, and describe what was not finite.

        Where non-finite steps are skipped this is called only if every step of an epoch was, with
        the first of them.
        """
        random_state.set_draws(record.random, self.batches.device)
        buffers, batch = self.step.modules.saved_buffers(), self.batches[record.index]
        with pyro.validation_enabled(False):
            message = faults.diagnose(self.step, batch, record.where)
        self.step.modules.restore(buffers)
        if not self.step.rule.stops:
            message = nothing_left(self.step.epoch, message)
        return faults.Fault(message, record.index, batch)
