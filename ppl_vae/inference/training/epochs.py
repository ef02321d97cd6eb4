"""An epoch of `fit`: trained under a policy for faults, and what there is to report of it."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ppl_vae.inference.training import checkpoints
from ppl_vae.inference.training.faults import Fault
from ppl_vae.inference.training.trainer import Trainer
from ppl_vae.shared.training.faults import RESTORES, fresh_seed, save_batch
from ppl_vae.shared.training.interrupts import Interrupt
from ppl_vae.shared.training.progress import Progress

log = logging.getLogger(__name__)


class Epoch:
    """An epoch of a run.

    Args:
        trainer: The run.
        number: Of the epoch, from 1.
        folder: Of the run, if it has one.
        on_nan: What is done where a loss or a gradient is not finite, see `fit`.
        seed: Of the run.

    Attributes:
        trained: Whether its end was reached.
    """

    def __init__(
        self, trainer: Trainer, number: int, folder: Path | None, on_nan: str, seed: int
    ) -> None:
        self.trainer, self.number, self.folder = trainer, number, folder
        self.on_nan, self.seed = on_nan, seed
        self.found: dict[str, float] | None = None

    @property
    def trained(self) -> bool:
        return self.found is not None

    @property
    def done(self) -> int:
        """The number of epochs of the run that are done."""
        return self.number if self.trained else self.number - 1

    def train(self, bar: Progress, interrupt: Interrupt) -> None:
        """Takes the steps that are left of it, unless it is asked to stop on the way.

        Raises:
            FloatingPointError: there was a fault, and nothing is left to try.
        """
        compiling = self.trainer.step.seconds
        self.found = self._restoring(bar, interrupt)
        if self.trainer.step.seconds > compiling:
            bar.say(f"compiled in {self.trainer.step.seconds - compiling:.1f} s")

    def _restoring(self, bar: Progress, interrupt: Interrupt) -> dict[str, float] | None:
        trainer = self.trainer
        restores = self.on_nan == "restore"
        before = checkpoints.checkpoint(trainer, {}, self.number - 1) if restores else None
        restored = 0
        while True:
            try:
                return trainer.epoch(self.number, bar, interrupt)
            except Fault as fault:
                if before is None or restored == RESTORES:
                    words = save_batch(self.folder, str(fault), fault.indices, fault.batch)
                    raise FloatingPointError(words) from None
                log.warning("%s. The epoch begins again", fault)
            restored += 1
            checkpoints.restore(trainer, before)
            trainer.seed(fresh_seed(fresh_seed(self.seed, self.number), restored))

    def row(self, validate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """What is reported of the epoch, with the numbers of the objective and `validate`'s."""
        assert self.found is not None
        start, found = time.perf_counter(), dict(self.found)
        seconds, skipped = found.pop("seconds"), found.pop("skipped")
        row = {"epoch": float(self.number), **found}
        if self.on_nan == "skip":
            row["skipped"] = skipped
        row |= {name: value.item() for name, value in self.trainer.state.items()}
        row |= validate()
        return {**row, "seconds": seconds + time.perf_counter() - start}

    def interruption_message(self) -> str:
        """What is said where the run was asked to stop."""
        going = self.trainer.current_epoch
        where = f"epoch {self.number}" + ("" if going is None else f", batch {going.done}")
        kept = f"resume=True (--resume) goes on from {str(self.folder)!r}"
        return f"stopped in {where}; {'nothing was kept' if self.folder is None else kept}"
