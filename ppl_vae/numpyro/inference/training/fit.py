"""See `ppl_vae.inference.training.fit`."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from numpyro.infer import ELBO as NumPyroELBO

from ppl_vae.numpyro.inference.batches import as_tuple
from ppl_vae.numpyro.inference.evaluation.loss import mean_loss
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.parts.base import NumPyroObjective, Objective
from ppl_vae.numpyro.inference.training.epochs import interruption_message, train
from ppl_vae.numpyro.inference.training.optimizers import Stepping
from ppl_vae.numpyro.inference.training.placement import Placement
from ppl_vae.numpyro.inference.training.trainer import Trainer
from ppl_vae.numpyro.models.base import Model
from ppl_vae.shared.checks import prefix_errors
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.checkpoints import Checkpoint, locked, remove, resuming
from ppl_vae.shared.training.history import History, describe_run
from ppl_vae.shared.training.interrupts import deferred
from ppl_vae.shared.training.metrics import Metrics
from ppl_vae.shared.training.optimizers import ADAM, Optimizer
from ppl_vae.shared.training.progress import Progress
from ppl_vae.shared.training.run_arguments import check_run, folder_of

Validation = Callable[[Any], Mapping[str, float]]


def fit(
    model: Model,
    data: Any,
    objective: NumPyroELBO | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    optimizer: Optimizer = ADAM,
    clip_norm: float | None = None,
    on_nan: str = "stop",
    device: str | jax.Device = "auto",
    mesh: Mesh | None = None,
    seed: int = 0,
    validation: Validation | Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """See `ppl_vae.inference.fit`. Each epoch is one compiled program.

    The given model and the networks of the objective stay as they are: the trained model is
    `fit(model, ...).model`, and trained networks are in `History.objective` and the checkpoint.
    Ctrl-C and SIGTERM take effect after the current epoch. With `on_nan="skip"`, a skipped step
    also ends its turn (see `Turn`).

    Args:
        device: "auto" (the default of jax), "cpu", "cuda" or a jax.Device.
        mesh: Devices that share each batch, in place of `device`: a mesh with one axis. Weights and
            data are replicated, and every batch is split into equal parts; a last batch that cannot
            be split is computed whole on every device. Results are the same up to rounding.
    """
    check_run(epochs=epochs, batch_size=batch_size, seed=seed, resume=resume, progress=progress)
    stepping = Stepping(lr, optimizer, clip_norm, on_nan)
    folder, arrays, given = folder_of(out), as_tuple(data), _as_objective(objective)
    place = Placement.find(device, mesh)
    prepared = given.prepare(model, *arrays)
    if validation is not None and not callable(validation):
        with prefix_errors("validation"):
            given.check(model, *as_tuple(validation))
    settings = {"batch_size": batch_size, **stepping.described(), "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    mine = folder if place.writes else None
    with locked(mine), deferred() as interrupt:
        find = partial(Checkpoint.find, folder, run, epochs)
        checkpoint = place.rank_0_first(find) if resume else None
        trainer = Trainer(model, prepared, arrays, place, batch_size, stepping)
        metrics = _begin(trainer, checkpoint, folder)
        done = 0 if checkpoint is None else checkpoint.epoch
        name = label or type(model).__name__
        with Progress(name, epochs, done, progress and place.writes) as bar:
            for epoch in range(done + 1, epochs + 1):
                start = time.perf_counter()
                row = {"epoch": float(epoch), **train(trainer, epoch, mine, seed)}
                row |= {name: float(value) for name, value in trainer.state.items()}
                row |= _validate(trainer.trained(), given, validation)
                row["seconds"] = time.perf_counter() - start
                metrics.append(row)
                bar.epoch(row)
                if mine is not None:
                    trainer.checkpoint(run, epoch).save(mine)
                if epoch < epochs and place.anywhere(interrupt.asked is not None):
                    interrupt.stop(interruption_message(epoch, folder))
    return History(trainer.trained(), metrics.rows, mine, trainer.trained_objective(given))


def _begin(trainer: Trainer, checkpoint: Checkpoint | None, folder: Path | None) -> Metrics:
    mine = folder if trainer.place.writes else None
    if checkpoint is None:
        remove(mine)
        return Metrics(mine, 0)
    with resuming(folder):
        trainer.restore(checkpoint)
    return Metrics(mine, checkpoint.epoch)


def _as_objective(objective: NumPyroELBO | None) -> Objective:
    if objective is None:
        return ELBO()
    return objective if isinstance(objective, Objective) else NumPyroObjective(objective)


def _validate(model: Model, objective: Objective, validation: Any) -> dict[str, float]:
    if validation is None:
        return {}
    if not callable(validation):
        return {"validation_loss": mean_loss(model, validation, objective)}
    return {name: float(value) for name, value in validation(model).items()}
