"""Several objectives for one model: which one trains it best."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ppl_vae.inference.batches import as_tuple
from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.evaluation.diagnostics import posterior_collapse
from ppl_vae.inference.evaluation.gradients import gradient_stats
from ppl_vae.inference.evaluation.log_likelihood import log_likelihood
from ppl_vae.inference.evaluation.loss import mean_loss
from ppl_vae.inference.objectives.parts.base import Objective, check_objective
from ppl_vae.inference.training.fit import fit
from ppl_vae.models.base import Model, check_model
from ppl_vae.shared.checks import check_seed, check_whole, prefix_errors, sample_once
from ppl_vae.shared.evaluation.comparison import Objectives, Row, by_name, compared, row
from ppl_vae.shared.evaluation.gradients import check_repeats
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.history import History


def compare(
    model: Model,
    objectives: Objectives,
    data: Any,
    test: Any,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    k: int = 5000,
    repeats: int = 100,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    axes: Sequence[Any] | None = None,
    progress: bool = True,
) -> Any:
    """Trains copies of the model by each objective, from the same weights and by the same batches.

    Draws the ELBO of the test data after each epoch, and log p(x) at the end.

    Args:
        model: The pair, which stays as it is.
        objectives: Name -> objective, or a sequence of objectives, whose names are then such as
            IWAE-5.
        data: What they are trained on, as `fit` takes it.
        test: What they are measured on, likewise; of data that are drawn anew one draw is taken.
        epochs: Number of epochs of each.
        batch_size: Data per batch; the gradients are those of the first so many test data.
        lr: Adam's step size, or a schedule of it.
        k: Draws for each datum for log p(x).
        repeats: Number of gradients from which the signal-to-noise ratio is found.
        device: As in `fit`.
        compile: Whether steps are compiled, see `fit`. What is measured is then compiled where it
            pays and is possible (see `log_likelihood`), and with False it is not.
        seed: Of everything random.
        out: Folder with a run of `fit`, and the trained model, for each; made if need be.
        resume: Go on with the runs in `out`.
        axes: Where to draw, two of matplotlib's axes; by default on a new figure of pyplot's.
        progress: Whether to show progress.

    Returns:
        A pandas DataFrame, a row for each objective, in nats per test datum: "bound" (what the
        objective itself measures, minus its loss), "elbo", "log_likelihood" (importance sampling)
        with its "standard_error" over the data, "kl" of guide and prior, "active_units",
        "seconds_per_epoch" (the median), and for each network of the pair "snr_encoder", ... (see
        `gradient_stats`) at the end of training.

    Raises:
        ValueError: an argument is not what it should be, or a latent site of the pair lies outside
            the data plate.
        ImportError: pandas is not installed.
    """
    named = copy.deepcopy(by_name(objectives, check_objective))
    check_model(model)
    check_whole("batch_size", batch_size, 1)
    check_whole("k", k, 1)
    check_repeats(repeats)
    check_seed(seed)
    with prefix_errors("test"):
        arrays = tuple(sample_once(as_tuple(test), seed))
        model.check(*arrays)
    batch = tuple(part[:batch_size] for part in arrays)
    # What cannot be compiled when training is over should not cost its result.
    measured: Compile = False if compile is False else "auto"
    settings: dict[str, Any] = {"compile": measured, "seed": seed}
    folder = None if out is None else Path(out)

    def train(name: str, objective: Objective) -> History:
        history = fit(
            copy.deepcopy(model),
            data,
            objective,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            device=device,
            compile=compile,
            seed=seed,
            validation=lambda model: {"elbo": -mean_loss(model, arrays, **settings)},
            out=None if folder is None else folder / name,
            resume=resume,
            label=name,
            progress=progress,
        )
        if folder is not None:
            history.model.save(folder / f"{name}.safetensors")
        return history

    def measure(objective: Objective, history: History) -> Row:
        trained = history.model
        bound = -mean_loss(trained, arrays, objective, **settings)
        log_p = log_likelihood(trained, arrays, k, **settings)
        collapse = posterior_collapse(trained, arrays, seed=seed)
        trained_objective = history.objective.at(epochs)
        stats = gradient_stats(trained_objective, trained, batch, repeats, seed=seed)
        return row(bound, log_p, collapse, history, stats["snr"])

    table, histories = compared(named, train, measure)
    # Here, because only pictures need matplotlib.
    from ppl_vae import plots

    plots.comparison(histories, table, axes)
    return table
