"""An epoch of `fit`: training, handling of faults, metrics."""

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
        trainer: The trainer.
        number: Number of the epoch, from 1.
        folder: The run's folder, or None.
        on_nan: Policy for a non-finite loss or gradient, see `fit`.
        seed: The run's random seed.

    Attributes:
        trained: Whether the epoch is complete.
    """

    def __init__(
        self, trainer: Trainer, number: int, folder: Path | None, on_nan: str, seed: int
    ) -> None:
        self.trainer, self.number, self.folder = trainer, number, folder
        self.on_nan, self.seed = on_nan, seed
        self.results: dict[str, float] | None = None

    @property
    def trained(self) -> bool:
        return self.results is not None

    @property
    def done(self) -> int:
        """Number of completed epochs of the run."""
        return self.number if self.trained else self.number - 1

    def train(self, bar: Progress, interrupt: Interrupt) -> None:
        """Take the remaining steps of the epoch, or those before an interrupt.

        Raises:
            FloatingPointError: A loss or gradient was not finite, and `on_nan` says to stop.
        """
        before = self.trainer.step.seconds
        self.results = self._train_or_restore(bar, interrupt)
        if self.trainer.step.seconds > before:
            bar.say(f"compiled in {self.trainer.step.seconds - before:.1f} s")

    def _train_or_restore(self, bar: Progress, interrupt: Interrupt) -> dict[str, float] | None:
        trainer = self.trainer
        restores = self.on_nan == "restore"
        before = checkpoints.checkpoint(trainer, {}, self.number - 1) if restores else None
        restored = 0
        while True:
            try:
                return trainer.epoch(self.number, bar, interrupt)
            except Fault as fault:
                if before is None or restored == RESTORES:
                    message = save_batch(self.folder, str(fault), fault.indices, fault.batch)
                    raise FloatingPointError(message) from None
                log.warning("%s. The epoch begins again", fault)
            restored += 1
            checkpoints.restore(trainer, before)
            trainer.seed(fresh_seed(fresh_seed(self.seed, self.number), restored))

    def row(self, validate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return the epoch's metrics, including the objective's state and validation results."""
        assert self.results is not None
        start, results = time.perf_counter(), dict(self.results)
        seconds, skipped = results.pop("seconds"), results.pop("skipped")
        row = {"epoch": float(self.number), **results}
        if self.on_nan == "skip":
            row["skipped"] = skipped
        row |= {name: value.item() for name, value in self.trainer.state.items()}
        row |= validate()
        return {**row, "seconds": seconds + time.perf_counter() - start}

    def interruption_message(self) -> str:
        """Return the message about where the run stopped and how to resume it."""
        current = self.trainer.current_epoch
        where = f"epoch {self.number}" + ("" if current is None else f", batch {current.done}")
        resume = f"resume=True (--resume) goes on from {str(self.folder)!r}"
        return f"stopped in {where}; {'nothing was kept' if self.folder is None else resume}"
