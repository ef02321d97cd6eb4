"""Small runs that `soak.py` kills and watches: both backends, eager and compiled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

N = 240


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        backend: "pyro" or "numpyro".
        make: Function of the rooms of models and objectives: model, data and objective.
        settings: Further arguments of `fit`.
    """

    backend: str
    make: Callable[[Any, Any], tuple[Any, Any, Any]]
    settings: dict[str, Any]


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((N, 12)).astype(np.float32)


def images() -> np.ndarray:
    return (pixels() < 0.5).astype(np.float32)


Made = tuple[Any, Any, Any]


def dynamic(models: Any, inference: Any, **key: Any) -> Made:
    """Return a case with dynamic binarisation and KL warm-up."""
    from ppl_vae.data import Dynamic

    objective = inference.ELBO(beta=inference.Warmup(20))
    return models.VAE(12, 3, (16,), **key), Dynamic(pixels()), objective


def norm(models: Any, inference: Any, **key: Any) -> Made:
    """Return a case with running statistics."""
    model = models.LadderVAE(12, (3, 2), ((8,), (6,)), batch_norm=True, **key)
    return model, images(), inference.ELBO()


def labels(models: Any, inference: Any, **key: Any) -> Made:
    """Return a case with partly labelled data."""
    from ppl_vae.data import hide_labels

    classes = np.random.default_rng(1).integers(0, 3, N)
    y = hide_labels(classes, 30, 0, 3)
    return models.M2(12, 3, 2, (8,), **key), (images(), y), inference.SemiSupervised(alpha=0.1)


def wake_sleep(models: Any, inference: Any, **key: Any) -> Made:
    return models.SBN(12, (6, 4), **key), images(), inference.RWS(4)


def vimco(models: Any, inference: Any, **key: Any) -> Made:
    return models.SBN(12, (6, 4), **key), images(), inference.VIMCO(4)


def baseline(models: Any, inference: Any, **key: Any) -> Made:
    """Return a case whose objective has a network."""
    network = inference.BaselineNet(12, (4,), **key)
    return models.SBN(12, (6, 4), **key), images(), inference.ELBO(2, baseline=network)


PYRO = {
    "dynamic": dynamic,
    "norm": norm,
    "labels": labels,
    "wake-sleep": wake_sleep,
    "vimco": vimco,
    "baseline": baseline,
}
RUNS: dict[str, Run] = {
    **{f"pyro-{name}": Run("pyro", make, {"compile": False}) for name, make in PYRO.items()},
    **{
        f"pyro-compiled-{name}": Run("pyro", PYRO[name], {"compile": True})
        for name in ("dynamic", "labels", "vimco")
    },
    **{
        f"numpyro-{name}": Run("numpyro", PYRO[name], {})
        for name in ("dynamic", "labels", "wake-sleep", "vimco")
    },
}


def train(name: str, out: Path, epochs: int) -> None:
    """Train the run called `name` in a folder, resuming an earlier one."""
    run = RUNS[name]
    if run.backend == "pyro":
        import pyro
        import torch

        from ppl_vae import inference, models

        torch.set_num_threads(1)
        pyro.set_rng_seed(0)
        made = run.make(models, inference)
    else:
        import jax

        from ppl_vae.numpyro import inference, models

        made = run.make(models, inference, key=jax.random.key(0))
    model, data, objective = made
    settings: dict[str, Any] = {"batch_size": 20, "progress": False, "device": "cpu", "seed": 1}
    settings["validation"] = data
    print("begun", flush=True)
    inference.fit(
        model, data, objective, epochs=epochs, out=out, resume=True, **settings, **run.settings
    )
