"""See `ppl_vae.inference.training.epochs`."""

import logging
from pathlib import Path

from ppl_vae.numpyro.inference.training.faults import Fault
from ppl_vae.numpyro.inference.training.trainer import Trainer
from ppl_vae.shared.training.faults import RESTORES, fresh_seed, save_batch

log = logging.getLogger(__name__)


def train(trainer: Trainer, epoch: int, folder: Path | None, seed: int) -> dict[str, float]:
    """Train for an epoch under the policy of `on_nan`; return the row of `Trainer.epoch`.

    Args:
        trainer: The state of the run.
        epoch: Epoch number, from 1.
        folder: Folder of the run, where the batch of a fault is saved; or None.
        seed: Random seed of the run.

    Raises:
        FloatingPointError: There was a fault, and the policy is exhausted.
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
    """Return the line to print when the run was asked to stop."""
    kept = f"resume=True (--resume) goes on from {str(folder)!r}"
    return f"stopped after epoch {epoch}; {'nothing was kept' if folder is None else kept}"
