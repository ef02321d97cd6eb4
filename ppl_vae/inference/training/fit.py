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

COMPILING = 15.0
"""Seconds that compiling takes, about."""
SAVED_PER_STEP, SAVED_PER_PRODUCT = 1.2e-3, 1e-11
"""Seconds that a compiled step saves, about: of Python, and for each parameter and row of a batch.
Constants and no measurement, so that equal arguments give equal weights: compiled and eager steps
differ in the last digits."""
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
    """Trains every parameter of `model`, and of the objective's networks, in place.

    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not. The caller's random state is left as it was. Ctrl-C and SIGTERM
    end the run after the step that is under way, with a checkpoint; a second one ends it at once.

    Args:
        model: The pair; it is moved to `device`, and so are the objective's networks, which get
            its floating type too.
        data: The argument of `model.model`, or a tuple of its arguments: numpy arrays, tensors or
            what is drawn anew for each batch (`ppl_vae.data.Dynamic` pixels, `NormalFeatures`),
            with a first dimension of one length.
        objective: A ppl_vae objective or a `pyro.infer.ELBO`; by default `ELBO()`.
        epochs: Number of epochs, those before a resume included.
        batch_size: Data per batch; the last batch of an epoch may be smaller.
        lr: The step size, or a schedule of it: `ExponentialDecay(1e-3, 1e-4, epochs)`.
        optimizer: What a step does with its gradients: `Adam()`, `AdamW()`, `Adamax()` or `SGD()`
            of `ppl_vae.shared.training.optimizers`.
        clip_norm: The largest norm of a step's gradient, of all parameters that are stepped in one;
            a larger gradient is scaled down to it.
        on_nan: What is done where a loss or a gradient is not finite. "stop" raises. "skip" goes on
            without that step, reports their number as "skipped", and raises if no step of an epoch
            was left. "restore" warns and begins the epoch again, from the state before it and with
            other random numbers; after three times in one epoch it raises.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or a torch.device.
        compile: Whether steps are compiled (see `svi_step`), which takes seconds at first: True,
            False, or "auto": where it is possible, and the run is long enough to save more.
        precision: Of the products of networks: "fp32" (the parameters' own type), "bf16", or on a
            CUDA device "tf32"; see `ppl_vae.inference.compilation.precision`.
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
        The model, and of every epoch the loss, what the objective reports, and the validation.

    Raises:
        ValueError: an argument is not what it should be, or a parameter receives no gradient.
        FloatingPointError: a loss or a gradient became NaN or infinite; the last checkpoint stays,
            and the batch is in fault.safetensors beside it.
        SystemExit: SIGTERM or Ctrl-C ended the run; KeyboardInterrupt in an interactive session.
    """
    check_run(epochs=epochs, batch_size=batch_size, seed=seed, resume=resume, progress=progress)
    check_compile(compile)
    stepping = Stepping(lr, optimizer, clip_norm, on_nan, compile, precision)
    folder, arrays, given = folder_of(out), as_tuple(data), _as_objective(objective)
    processes = torchrun.join(find_device(device))
    found = processes.device
    prepared = given.prepare(model, *arrays)
    if validation is not None and not callable(validation):
        with prefix_errors("validation"):
            given.check(model, *as_tuple(validation))
    settings = {"batch_size": batch_size, **stepping.described(), "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    if processes.is_distributed:
        processes.check_same("data", fingerprint(arrays))
        processes.check_same("settings", {**settings, "epochs": epochs})
    saved = _seconds_saved(epochs * -(-len(arrays[0]) // batch_size), batch_size, model, prepared)
    kept = folder if processes.is_rank_0 else None
    with (
        locked(kept),
        random_state.isolated(seed, found),
        deferred(processes.is_distributed) as noted,
    ):
        interrupt = (
            torchrun.SharedInterrupt(noted, processes) if processes.is_distributed else noted
        )
        find = partial(torchrun.find_checkpoint, folder, run, epochs, resume)
        checkpoint = processes.broadcast_from_rank_0(find)
        if compile == "auto" and saved <= COMPILING:
            stepping = replace(stepping, compile=False)
        trainer = Trainer(model.to(found), prepared, arrays, found, batch_size, stepping, processes)
        metrics = _begin(trainer, checkpoint, folder, seed)
        done = 0 if checkpoint is None else checkpoint.epoch
        shown = progress and processes.is_rank_0
        with Progress(label or type(model).__name__, epochs, done, shown) as bar:
            if trainer.step.compile == "auto":
                bar.say(f"steps are compiled first, which saves {saved:.0f} s or so")
            for epoch in range(done + 1, epochs + 1):
                one = Epoch(trainer, epoch, kept, on_nan, seed)
                one.train(bar, interrupt)
                if one.trained:
                    metrics.append(
                        one.row(lambda: _validate(model, given, validation, found, compile))
                    )
                    bar.epoch(metrics.rows[-1])
                if kept is not None:
                    checkpoints.checkpoint(trainer, run, one.done).save(kept)
                processes.wait()
                if interrupt.asked and one.done < epochs:
                    interrupt.stop(one.interruption_message())
    return History(model, metrics.rows, folder, given.with_state(trainer.state))


def _begin(
    trainer: Trainer, checkpoint: Checkpoint | None, folder: Path | None, seed: int
) -> Metrics:
    """The rows of a run, which begins, or goes on where the checkpoint was made."""
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
    """What compiled steps save, about."""
    size = sum(parameter.numel() for parameter in model.parameters())
    products = size * batch_size * objective.k
    return steps * (SAVED_PER_STEP + SAVED_PER_PRODUCT * products)


def _as_objective(objective: PyroELBO | None) -> Objective:
    if objective is None:
        return ELBO()
    return objective if isinstance(objective, Objective) else PyroObjective(objective)


def _validate(
    model: Model, objective: Objective, validation: Any, device: torch.device, compile: Compile
) -> dict[str, float]:
    """The numbers to report after an epoch, which cost the run none of its random numbers."""
    if validation is None:
        return {}
    if not callable(validation):
        wanted: Compile = compile and "auto"  # some losses that are trained on cannot be one graph
        return {"validation_loss": mean_loss(model, validation, objective, compile=wanted)}
    with evaluating(model), random_state.isolated(0, device), torch.no_grad():
        return {name: float(value) for name, value in validation(model).items()}
