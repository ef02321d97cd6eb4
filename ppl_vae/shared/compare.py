"""Comparison of several objectives for one model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ppl_vae.shared.checks import check_seed, check_whole, prefix_errors, sample_once
from ppl_vae.shared.evaluation.backends import AnyModel, module_of
from ppl_vae.shared.evaluation.gradients import check_repeats, gradient_stats
from ppl_vae.shared.evaluation.optional_packages import pandas
from ppl_vae.shared.evaluation.pair import as_tuple
from ppl_vae.shared.evaluation.posterior_collapse import posterior_collapse
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.history import History

Objectives: TypeAlias = Mapping[str, Any] | Sequence[Any]
Row: TypeAlias = dict[str, float]


def compare(
    model: AnyModel,
    objectives: Objectives,
    data: Any,
    test: Any,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    k: int = 5000,
    repeats: int = 100,
    device: object = "auto",
    compile: Literal["auto"] | bool = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    axes: Sequence[Any] | None = None,
    progress: bool = True,
) -> Any:
    """Train copies of the model by each objective, from the same weights and in the same batches.

    Draws the ELBO of the test data after each epoch, and log p(x) at the end.

    Args:
        model: The model/guide pair, which is not changed.
        objectives: Name -> objective, or a sequence of objectives, which are then named like
            IWAE-5.
        data: The training data, as for `fit`.
        test: The test data, likewise. Resampled data are sampled once.
        epochs: Number of epochs for each objective.
        batch_size: Training batch size; gradients are measured on the first batch of test data.
        lr: Adam's step size, or a schedule of it.
        k: Number of draws for each datum for log p(x).
        repeats: Number of gradients for the signal-to-noise ratio.
        device: As for `fit`.
        compile: Whether to compile the steps, see `fit`. Measurements are then compiled where this
            is possible and pays (see `log_likelihood`); with False they are not. NumPyro models
            are always compiled and accept "auto" alone.
        seed: Random seed for training and measurements.
        out: Folder with a run of `fit` and the trained model for each objective; made if missing.
        resume: Whether to resume the runs in `out`.
        axes: Two matplotlib axes to draw on; by default those of a new figure.
        progress: Whether to show progress.

    Returns:
        A pandas DataFrame, a row for each objective, in nats per test datum: "bound" (minus the
        loss of the objective itself), "elbo", "log_likelihood" (importance sampling) with its
        "standard_error" over the data, "kl" of guide and prior, "active_units",
        "seconds_per_epoch" (the median), and for each network of the pair "snr_encoder", ... (see
        `gradient_stats`) at the end of training.

    Raises:
        ValueError: an argument is invalid, or a latent site of the pair lies outside the data
            plate.
        ImportError: pandas is not installed.
    """
    module_of(model, "models.base").check_model(model)
    check_objective = module_of(model, "inference.objectives.parts.base").check_objective
    named = copy.deepcopy(_by_name(objectives, check_objective))
    check_whole("batch_size", batch_size, 1)
    check_whole("k", k, 1)
    check_repeats(repeats)
    check_seed(seed)
    with prefix_errors("test"):
        arrays = tuple(sample_once(as_tuple(test), seed))
        model.check(*arrays)
    batch = tuple(part[:batch_size] for part in arrays)
    backend = module_of(model, "inference")
    compiled = _compile_arguments(model, compile)
    # Training should not be lost to a measurement that cannot be compiled.
    lenient = {name: value and "auto" for name, value in compiled.items()}
    settings: dict[str, Any] = {"seed": seed, **lenient}
    folder = None if out is None else Path(out)
    frame = pandas().DataFrame  # before training, which takes long

    def train(name: str, objective: Any) -> History:
        history: History = backend.fit(
            copy.deepcopy(model),
            data,
            objective,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            device=device,
            seed=seed,
            validation=lambda model: {"elbo": -backend.mean_loss(model, arrays, **settings)},
            out=None if folder is None else folder / name,
            resume=resume,
            label=name,
            progress=progress,
            **compiled,
        )
        if folder is not None:
            history.model.save(folder / f"{name}.safetensors")
        return history

    def measure(objective: Any, history: History) -> Row:
        trained, trained_objective = history.model, history.objective.at(epochs)
        log_p = backend.log_likelihood(trained, arrays, k, **settings)
        collapse = posterior_collapse(trained, arrays, seed=seed)
        stats = gradient_stats(trained_objective, trained, batch, repeats, seed=seed)
        numbers = {
            "bound": -backend.mean_loss(trained, arrays, objective, **settings),
            "elbo": history["elbo"][-1],
            "log_likelihood": log_p.mean,
            "standard_error": log_p.standard_error,
            "kl": sum(site.mean for site in collapse.sites.values()),
            "active_units": float(collapse.active.total),
            "seconds_per_epoch": float(np.median(history["seconds"])),
        }
        return numbers | {f"snr_{group}": float(snr) for group, snr in stats["snr"].items()}

    histories = {name: train(name, objective) for name, objective in named.items()}
    rows = {name: measure(named[name], history) for name, history in histories.items()}
    table = frame.from_dict(rows, orient="index")
    # Here, because importing matplotlib takes long.
    from ppl_vae import plots

    plots.comparison(histories, table, axes)
    return table


def _by_name(objectives: Objectives, check: Callable[[str, Any], None]) -> dict[str, Any]:
    """Return the objectives by name; a sequence is named by class and k.

    Args:
        objectives: The argument of `compare`.
        check: Raises a ValueError that begins with the given name unless given an objective.

    Raises:
        ValueError: there are none, two have one name, or one is no objective.
    """
    if isinstance(objectives, str) or not isinstance(objectives, Mapping | Sequence):
        raise ValueError(
            f"objectives should be a mapping or a sequence of objectives, was {objectives!r}"
        )
    for objective in objectives.values() if isinstance(objectives, Mapping) else objectives:
        check("each of objectives", objective)
    if isinstance(objectives, Mapping):
        named = dict(objectives)
    else:
        names = [f"{type(objective).__name__}-{objective.k}" for objective in objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives should be named by a mapping, had the names {names}")
        named = dict(zip(names, objectives, strict=True))
    if not named:
        raise ValueError("objectives should be at least one, was none")
    return named


def _compile_arguments(model: AnyModel, compile: Any) -> dict[str, Any]:
    """Return the argument `compile` for a backend that has it."""
    if model.backend == "pyro":
        return {"compile": compile}
    if compile != "auto":
        raise ValueError(f"compile should be 'auto' with a NumPyro model, was {compile!r}")
    return {}
