"""Training of a model/guide pair: epochs, progress, metrics, checkpoints, resume."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pyro.infer.elbo import ELBO as PyroELBO

from ppl_vae.checks import check_positive, check_whole
from ppl_vae.inference import random_state
from ppl_vae.inference.batches import as_tuple, find_device
from ppl_vae.inference.elbo import ELBO
from ppl_vae.inference.evaluate import mean_loss
from ppl_vae.inference.objective import Objective, PyroObjective
from ppl_vae.inference.step import Compile
from ppl_vae.inference.trainer import Trainer
from ppl_vae.models.base import Model, evaluating
from ppl_vae.runs import Checkpoint, History, Metrics, Progress, describe_run, plain
from ppl_vae.schedules import Schedule

WORTH_COMPILING = 10_000
"""Steps from which on a compiled run is faster. It does not depend on a measurement, so that equal
arguments give equal weights: compiled and eager steps differ in the last digits."""
Validation = Callable[[Any], Mapping[str, float]]


def fit(
    model: Model,
    data: Any,
    objective: PyroELBO | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    seed: int = 0,
    validation: Validation | Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """Trains every parameter of `model`, and of the objective's networks, by Adam, in place.

    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not. The caller's random state is left as it was.

    Args:
        model: The pair; it is moved to `device`, and so are the objective's networks, which get
            its floating type too.
        data: The argument of `model.model`, or a tuple of its arguments: numpy arrays, tensors or
            what is drawn anew for each batch (`ppl_vae.data.Dynamic` pixels, `NormalFeatures`),
            with a first dimension of one length.
        objective: A ppl_vae objective or a `pyro.infer.ELBO`; by default `ELBO()`.
        epochs: Number of epochs, those before a resume included.
        batch_size: Data per batch; the last batch of an epoch may be smaller.
        lr: Adam's step size, or a schedule of it: `ExponentialDecay(1e-3, 1e-4, epochs)`.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or a torch.device.
        compile: Whether steps are compiled (see `svi_step`), which takes seconds at first: True,
            False, or "auto": where a run has 10 000 steps or more, and it is possible.
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
        FloatingPointError: the loss became NaN or infinite; the last checkpoint stays.
    """
    for name, number, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        check_whole(name, number, least)
    if not isinstance(lr, Schedule):
        check_positive("lr", lr)
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile should be True, False or 'auto', was {compile!r}")
    arrays = as_tuple(data)
    given = _as_objective(objective)
    found = find_device(device)
    prepared = given.prepare(model, *arrays)
    if validation is not None and not callable(validation):
        given.check(model, *as_tuple(validation))
    steps = epochs * -(-len(arrays[0]) // batch_size)
    chosen = False if compile == "auto" and steps < WORTH_COMPILING else compile
    trainer = Trainer(model.to(found), prepared, arrays, found, batch_size, lr, chosen)
    folder = None if out is None else Path(out)
    settings = {"batch_size": batch_size, "lr": plain(lr), "compile": compile, "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    with random_state.isolated(seed, found):
        checkpoint = Checkpoint.find(folder, run, epochs) if resume else None
        done = 0 if checkpoint is None else checkpoint.epoch
        trainer.start(seed, checkpoint)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(folder, done)
        with Progress(label or type(model).__name__, epochs, done, progress) as bar:
            for epoch in range(done + 1, epochs + 1):
                start = time.perf_counter()
                row = {"epoch": float(epoch), "loss": trainer.epoch(epoch, bar)}
                row |= {name: value.item() for name, value in trainer.state.items()}
                row |= _validate(model, given, validation, found)
                row["seconds"] = time.perf_counter() - start
                metrics.append(row)
                bar.epoch(row)
                if folder is not None:
                    trainer.checkpoint(run, epoch).save(folder)
    return History(model, metrics.rows, folder)


def _as_objective(objective: PyroELBO | None) -> Objective:
    if objective is None:
        return ELBO()
    return objective if isinstance(objective, Objective) else PyroObjective(objective)


def _validate(
    model: Model, objective: Objective, validation: Any, device: torch.device
) -> dict[str, float]:
    """The numbers to report after an epoch, which cost the run none of its random numbers."""
    if validation is None:
        return {}
    if not callable(validation):
        return {"validation_loss": mean_loss(model, validation, objective)}
    with evaluating(model), random_state.isolated(0, device), torch.no_grad():
        return {name: float(value) for name, value in validation(model).items()}
