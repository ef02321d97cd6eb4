"""Training of a model/guide pair: epochs, progress, metrics, checkpoints, resume."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro.infer.elbo import ELBO as PyroELBO

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import as_tuple, find_device
from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.precision import Precision
from ppl_vae.inference.distributed import torchrun
from ppl_vae.inference.evaluation.loss import mean_loss
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.parts.base import Objective, PyroObjective
from ppl_vae.inference.training import checkpoints
from ppl_vae.inference.training.epochs import Epoch
from ppl_vae.inference.training.trainer import Stepping, Trainer
from ppl_vae.models.base import Model, evaluating
from ppl_vae.shared.checks import check_compile, prefix_errors
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.checkpoints import Checkpoint, locked, remove, resuming
from ppl_vae.shared.training.history import History, describe_run, fingerprint
from ppl_vae.shared.training.interrupts import deferred
from ppl_vae.shared.training.metrics import Metrics
from ppl_vae.shared.training.optimizers import ADAM, Optimizer
from ppl_vae.shared.training.progress import Progress
from ppl_vae.shared.training.run_arguments import check_run, folder_of

COMPILE_SECONDS = 15.0
"""Approximate time that compilation takes."""
SECONDS_SAVED_PER_STEP, SECONDS_SAVED_PER_MULTIPLY_ADD = 1.2e-3, 1e-11
"""Approximate time that a compiled step saves: Python's, and for each parameter and row of a batch.
Constants instead of a measurement, so that equal arguments give equal weights: compiled and eager
steps differ in the last digits."""
Validation = Callable[[Any], Mapping[str, float]]


def fit(
    model: Model,
    data: Any,
    objective: PyroELBO | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    optimizer: Optimizer = ADAM,
    clip_norm: float | None = None,
    on_nan: str = "stop",
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    precision: Precision = "fp32",
    seed: int = 0,
    validation: Validation | Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """Train all parameters of `model` and of the objective's networks, in place.

    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not. The global RNG state is restored afterwards. Ctrl-C and SIGTERM
    end the run after the current step, with a checkpoint; a second one ends it immediately.

    Args:
        model: The model/guide pair. It is moved to `device`, as are the objective's networks, which
            are also converted to its dtype.
        data: The argument of `model.model`, or a tuple of its arguments, with equal first
            dimensions: NumPy arrays, tensors, or data that are resampled in every batch
            (`ppl_vae.data.Dynamic`, `NormalFeatures`).
        objective: A ppl_vae objective or a `pyro.infer.ELBO`; by default `ELBO()`.
        epochs: Total number of epochs, including those before a resume.
        batch_size: Batch size; the last batch of an epoch may be smaller.
        lr: Learning rate, or a schedule of it such as `ExponentialDecay(1e-3, 1e-4, epochs)`.
        optimizer: The optimizer: `Adam()`, `AdamW()`, `Adamax()` or `SGD()` of
            `ppl_vae.inference`.
        clip_norm: Maximum norm of the gradient over all parameters that are updated together;
            larger gradients are scaled down to it.
        on_nan: Policy for a non-finite loss or gradient. "stop" raises an error. "skip" skips the
            step, reports the number of skipped steps as "skipped", and raises if every batch of an
            epoch had a skipped step. "restore" warns and restarts the epoch from the state before
            it, with new random numbers; after three restarts of one epoch it raises.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or a torch.device.
        compile: True for compiled steps (see `svi_step`), which take seconds to compile, False for
            eager ones, "auto" for compiled ones where that is possible and the run is long enough.
        precision: Precision of matrix multiplications: "fp32" (the parameters' own dtype), "bf16",
            or on a CUDA device "tf32"; see `ppl_vae.inference.compilation.precision`.
        seed: Random seed for the order of the data, latent draws and dynamic binarisation. Initial
            weights do not depend on it.
        validation: A function of the model that returns numbers to report after each epoch, by
            name; or data like `data`, whose loss is reported as "validation_loss".
        out: Folder for metrics.csv and a checkpoint after each epoch; created if necessary. Without
            `resume`, a run in it is replaced.
        resume: Whether to resume from the checkpoint in `out`, if there is one.
        label: Label of the progress bar; by default the name of the model's class.
        progress: Whether to show progress.

    Returns:
        The model, and for each epoch the loss, the objective's state and the validation results.

    Raises:
        ValueError: A parameter receives no gradient, or an argument is invalid.
        FloatingPointError: A loss or gradient became NaN or infinite. The last checkpoint is kept,
            and the batch is saved beside it in fault.safetensors.
        SystemExit: SIGTERM or Ctrl-C ended the run; KeyboardInterrupt in an interactive session.
    """
    check_run(epochs=epochs, batch_size=batch_size, seed=seed, resume=resume, progress=progress)
    check_compile(compile)
    stepping = Stepping(lr, optimizer, clip_norm, on_nan, compile, precision)
    folder, arrays, unprepared = folder_of(out), as_tuple(data), _as_objective(objective)
    processes = torchrun.join(find_device(device))
    target = processes.device
    prepared = unprepared.prepare(model, *arrays)
    if validation is not None and not callable(validation):
        with prefix_errors("validation"):
            unprepared.check(model, *as_tuple(validation))
    settings = {"batch_size": batch_size, **stepping.described(), "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    if processes.is_distributed:
        processes.check_same("data", fingerprint(arrays))
        processes.check_same("settings", {**settings, "epochs": epochs})
    steps = epochs * -(-len(arrays[0]) // batch_size)
    saved = _seconds_saved(steps, batch_size, model, prepared)
    if compile == "auto" and saved <= COMPILE_SECONDS:
        stepping = replace(stepping, compile=False)
    own_folder = folder if processes.is_rank_0 else None
    with (
        locked(own_folder),
        random_state.isolated(seed, target),
        deferred(processes.is_distributed) as interrupt,
    ):
        if processes.is_distributed:
            interrupt = torchrun.SharedInterrupt(interrupt, processes)
        find = partial(torchrun.find_checkpoint, folder, run, epochs, resume)
        checkpoint = processes.broadcast_from_rank_0(find)
        trainer = Trainer(
            model.to(target), prepared, arrays, target, batch_size, stepping, processes
        )
        metrics = _begin(trainer, checkpoint, folder, seed)
        done = 0 if checkpoint is None else checkpoint.epoch
        shown = progress and processes.is_rank_0
        with Progress(label or type(model).__name__, epochs, done, shown) as bar:
            if trainer.step.compile == "auto":
                bar.say(f"compiling the steps, which saves about {saved:.0f} s")
            for number in range(done + 1, epochs + 1):
                epoch = Epoch(trainer, number, own_folder, on_nan, seed)
                epoch.train(bar, interrupt)
                if epoch.trained:
                    validate = partial(_validate, model, unprepared, validation, target, compile)
                    metrics.append(epoch.row(validate))
                    bar.epoch(metrics.rows[-1])
                if own_folder is not None:
                    checkpoints.checkpoint(trainer, run, epoch.done).save(own_folder)
                processes.wait()
                if interrupt.asked and epoch.done < epochs:
                    interrupt.stop(epoch.interruption_message())
    return History(model, metrics.rows, folder, unprepared.with_state(trainer.state))


def _begin(
    trainer: Trainer, checkpoint: Checkpoint | None, folder: Path | None, seed: int
) -> Metrics:
    """Seed or restore the trainer, and return the metrics of the epochs that are done."""
    processes = trainer.processes
    trainer.seed(seed)
    if checkpoint is not None:
        with resuming(folder):
            checkpoints.restore(trainer, checkpoint)
    elif processes.is_rank_0:
        remove(folder)
    done = 0 if checkpoint is None else checkpoint.epoch
    metrics = processes.broadcast_from_rank_0(partial(Metrics, folder, done))
    if not processes.is_rank_0:
        metrics.path = None
    return metrics


def _seconds_saved(steps: int, batch_size: int, model: Model, objective: Objective) -> float:
    """Estimate the time that compiled steps save."""
    size = sum(parameter.numel() for parameter in model.parameters())
    multiply_adds = size * batch_size * objective.k
    return steps * (SECONDS_SAVED_PER_STEP + SECONDS_SAVED_PER_MULTIPLY_ADD * multiply_adds)


def _as_objective(objective: PyroELBO | None) -> Objective:
    if objective is None:
        return ELBO()
    return objective if isinstance(objective, Objective) else PyroObjective(objective)


def _validate(
    model: Model, objective: Objective, validation: Any, device: torch.device, compile: Compile
) -> dict[str, float]:
    """Compute the validation results of an epoch, without changing the run's random state."""
    if validation is None:
        return {}
    if not callable(validation):
        allowed: Compile = compile and "auto"  # not all training losses can be captured
        return {"validation_loss": mean_loss(model, validation, objective, compile=allowed)}
    with evaluating(model), random_state.isolated(0, device), torch.no_grad():
        return {name: float(value) for name, value in validation(model).items()}
