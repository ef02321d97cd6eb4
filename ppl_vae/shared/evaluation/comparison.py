"""One model under several objectives, as a table and a picture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.latent_units import PosteriorCollapse
from ppl_vae.shared.evaluation.optional_packages import pandas
from ppl_vae.shared.training.history import History

Objectives: TypeAlias = Mapping[str, Any] | Sequence[Any]
Row: TypeAlias = dict[str, float]


def by_name(objectives: Objectives, check: Callable[[str, Any], None]) -> dict[str, Any]:
    """Objectives by their names, which are made of class and k where none are given.

    Args:
        objectives: What a user handed in.
        check: Raises a ValueError that begins with a name unless that is an objective.

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


def compared(
    objectives: Mapping[str, Any],
    train: Callable[[str, Any], History],
    measure: Callable[[Any, History], Row],
) -> tuple[Any, dict[str, History]]:
    """Return the table of `ppl_vae.inference.compare` and the history of each objective."""
    frame = pandas().DataFrame
    histories = {name: train(name, objective) for name, objective in objectives.items()}
    rows = {name: measure(objectives[name], history) for name, history in histories.items()}
    return frame.from_dict(rows, orient="index"), histories


def row(
    bound: float, log_likelihood: Estimate, collapse: PosteriorCollapse, history: History, snr: Any
) -> Row:
    """What is reported of one objective; the last column is the guide's, or each network's, SNR."""
    elbo = history["elbo"][-1]
    numbers = {
        "bound": bound,
        "elbo": elbo,
        "log_likelihood": log_likelihood.mean,
        "standard_error": log_likelihood.standard_error,
        "kl": sum(site.mean for site in collapse.sites.values()),
        "active_units": float(collapse.active.total),
        "seconds_per_epoch": float(np.median(history["seconds"])),
    }
    return numbers | {f"snr_{group}": float(value) for group, value in snr.items()}
