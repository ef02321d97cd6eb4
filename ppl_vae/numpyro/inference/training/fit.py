"""Training of a model/guide pair, as `ppl_vae.inference.fit`: one compiled program per epoch."""

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
    """Trains every parameter of `model`; the trained model is `fit(model, ...).model`.

    As `ppl_vae.inference.fit`, but the given model stays as it is, and so do networks of the
    objective, whose trained weights are in the checkpoint alone.
    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not. Ctrl-C and SIGTERM end the run after the epoch that is under
    way, with a checkpoint; a second one ends it at once.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments: arrays of any kind or
            what is drawn anew for each batch (`ppl_vae.data.Dynamic` pixels, `NormalFeatures`),
            with a first dimension of one length.
        objective: A ppl_vae.numpyro objective or a `numpyro.infer.ELBO`; by default `ELBO()`.
        epochs: Number of epochs, those before a resume included.
        batch_size: Data per batch; the last batch of an epoch may be smaller.
        lr: The step size, or a schedule of it: `ExponentialDecay(1e-3, 1e-4, epochs)`.
        optimizer: What a step does with its gradients: `Adam()`, `AdamW()`, `Adamax()` or `SGD()`
            of `ppl_vae.shared.training.optimizers`.
        clip_norm: The largest norm of a step's gradient, of all parameters that are stepped in one;
            a larger gradient is scaled down to it.
        on_nan: What is done where a loss or a gradient is not finite. "stop" raises. "skip" goes on
            without that step (and without what is left of its turn, see `Turn`), reports their
            number as "skipped", and raises if no batch of an epoch was left. "restore" warns and
            begins the epoch again, from the state before it and with other random numbers; after
            three times in one epoch it raises.
        device: "auto" (what jax prefers), "cpu", "cuda" or a jax.Device.
        mesh: Devices that share the work, in the place of `device`: a mesh with one axis, by which
            every batch is cut into equal parts. Weights and data lie on each device. What is
            computed is the same but for rounding. A last batch that cannot be cut is not shared.
        seed: Of everything random: order of the data, pixels, draws. Not of the initial weights,
            which the model got when it was made.
        validation: Called with the model after every epoch, gives names and numbers to report; or
            data like `data`, whose loss is reported as "validation_loss".
        out: Folder for metrics.csv and a checkpoint per epoch, made if need be. Without `resume`, a
            run that is there is replaced.
        resume: Go on from the checkpoint in `out`, if there is one.
        label: What the progress bar is called; by default the model's class.
        progress: Whether to show progress.

    Returns:
        The trained model, and of every epoch the loss, what the objective reports, and the
        validation.

    Raises:
        ValueError: an argument is not what it should be, or a parameter receives no gradient.
        FloatingPointError: a loss or a gradient became NaN or infinite; the last checkpoint stays,
            and the batch is in fault.safetensors beside it.
        SystemExit: SIGTERM or Ctrl-C ended the run; KeyboardInterrupt in an interactive session.
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
    """The rows of a run, which begins, or goes on where the checkpoint was made."""
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
    """The numbers to report after an epoch; draws are the same after every epoch."""
    if validation is None:
        return {}
    if not callable(validation):
        return {"validation_loss": mean_loss(model, validation, objective)}
    return {name: float(value) for name, value in validation(model).items()}
