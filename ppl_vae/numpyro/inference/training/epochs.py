"""An epoch of `fit` under a policy for faults, as `ppl_vae.inference.training.epochs`."""

import logging
from pathlib import Path

from ppl_vae.numpyro.inference.training.faults import Fault
from ppl_vae.numpyro.inference.training.trainer import Trainer
from ppl_vae.shared.training.faults import RESTORES, fresh_seed, save_batch

log = logging.getLogger(__name__)


def train(trainer: Trainer, epoch: int, folder: Path | None, seed: int) -> dict[str, float]:
    """Takes the steps of an epoch; what there is to report of them, see `Trainer.epoch`.

    Args:
        trainer: The run.
        epoch: The number of the epoch, from 1.
        folder: Where a batch at fault is kept, if there is one.
        seed: Of the run.

    Raises:
        FloatingPointError: there was a fault, and nothing is left to try.
    """
    restores = trainer.on_nan == "restore"
    before = trainer.place.here(trainer.kept) if restores else None
    restored = 0
    while True:
        try:
            return trainer.epoch(epoch, fresh_seed(seed, restored))
        except Fault as fault:
            if not restores or restored == RESTORES:
                words = save_batch(folder, str(fault), fault.indices, fault.batch)
                raise FloatingPointError(words) from None
            log.warning("%s. The epoch begins again", fault)
        restored += 1
        trainer.kept = trainer.place.put(before)


def interruption_message(epoch: int, folder: Path | None) -> str:
    """What is said where the run was asked to stop."""
    kept = f"resume=True (--resume) goes on from {str(folder)!r}"
    return f"stopped after epoch {epoch}; {'nothing was kept' if folder is None else kept}"
