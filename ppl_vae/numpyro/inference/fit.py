"""Training of a model/guide pair, as `ppl_vae.inference.fit`: one compiled program per epoch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from numpyro.infer import ELBO as NumPyroELBO

from ppl_vae.checks import check_positive, check_whole
from ppl_vae.numpyro.inference.batches import as_tuple, find_device
from ppl_vae.numpyro.inference.elbo import ELBO
from ppl_vae.numpyro.inference.evaluate import mean_loss
from ppl_vae.numpyro.inference.objective import NumPyroObjective, Objective
from ppl_vae.numpyro.inference.trainer import Trainer
from ppl_vae.numpyro.models.base import Model
from ppl_vae.runs import Checkpoint, History, Metrics, Progress, describe_run, plain
from ppl_vae.schedules import Schedule

Validation = Callable[[Any], Mapping[str, float]]


def fit(
    model: Model,
    data: Any,
    objective: NumPyroELBO | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    device: str | jax.Device = "auto",
    seed: int = 0,
    validation: Validation | Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """Trains every parameter of `model` by Adam; the trained model is `fit(model, ...).model`.

    As `ppl_vae.inference.fit`, but the given model stays as it is, and so do networks of the
    objective, whose trained weights are in the checkpoint alone.
    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments: arrays of any kind or
            what is drawn anew for each batch (`ppl_vae.data.Dynamic` pixels, `NormalFeatures`),
            with a first dimension of one length.
        objective: A ppl_vae.numpyro objective or a `numpyro.infer.ELBO`; by default `ELBO()`.
        epochs: Number of epochs, those before a resume included.
        batch_size: Data per batch; the last batch of an epoch may be smaller.
        lr: Adam's step size, or a schedule of it: `ExponentialDecay(1e-3, 1e-4, epochs)`.
        device: "auto" (what jax prefers), "cpu", "cuda" or a jax.Device.
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
    arrays = as_tuple(data)
    given = _as_objective(objective)
    found = find_device(device)
    prepared = given.prepare(model, *arrays)
    if validation is not None and not callable(validation):
        given.check(model, *as_tuple(validation))
    trainer = Trainer(model, prepared, arrays, found, batch_size, lr, seed)
    folder = None if out is None else Path(out)
    settings = {"batch_size": batch_size, "lr": plain(lr), "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    checkpoint = Checkpoint.find(folder, run, epochs) if resume else None
    done = 0 if checkpoint is None else checkpoint.epoch
    trainer.start(checkpoint)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder, done)
    with Progress(label or type(model).__name__, epochs, done, progress) as bar:
        for epoch in range(done + 1, epochs + 1):
            start = time.perf_counter()
            row = {"epoch": float(epoch), "loss": trainer.epoch(epoch)}
            row |= {name: float(value) for name, value in trainer.state.items()}
            row |= _validate(trainer.trained(), given, validation)
            row["seconds"] = time.perf_counter() - start
            metrics.append(row)
            bar.epoch(row)
            if folder is not None:
                trainer.checkpoint(run, epoch).save(folder)
    return History(trainer.trained(), metrics.rows, folder)


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
