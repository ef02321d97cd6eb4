"""Sigmoid belief networks, trained by several estimators of the gradient for discrete latents.

Mnih & Rezende, "Variational inference for Monte Carlo objectives", 2016, generative modelling with
binary latent variables. All estimators have the same initial weights, batches and number of epochs,
so differences are paired; log p(x) is measured in one way for all. The default is a quick run on
the handwritten digits that come with scikit-learn; `--data mnist` has the paper's network, three
linear layers of 200 units, and VIMCO with 5 particles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from cli import finish, run
from density import DensitySettings, Result, chosen_of, load, samples, table, train

from ppl_vae import plots
from ppl_vae.inference import ELBO, RWS, VIMCO, BaselineNet
from ppl_vae.models import SBN


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    epochs: int = 200
    """Number of epochs."""
    lr: float = 1e-2
    """Learning rate of Adam in the first epoch."""
    lr_end: float = 1e-3
    """Learning rate in the last epoch; it decays exponentially."""
    estimators: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME-K ...")] = (
        "REINFORCE-5",
        "NVIL-5",
        "VIMCO-5",
        "RWS-5",
    )
    """Estimators (REINFORCE, NVIL, VIMCO, RWS) with numbers of particles; differences are relative
    to the first."""
    z_dims: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (50, 50)
    """Numbers of units of z_1, z_2, ..."""
    out: Path = Path("out/sbn")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        train_on="train+validation",
        epochs=20,
        lr=3e-3,
        lr_end=3e-4,
        k=1000,
        test_images=1000,
        estimators=("VIMCO-5",),
        z_dims=(200, 200, 200),
    ),
}


def main(settings: Settings) -> None:
    images = load(settings)
    x_dim = images.train.x.shape[1]
    torch.manual_seed(settings.seed)
    chosen = chosen_of("estimators", settings.estimators, known(x_dim))
    make = partial(SBN, x_dim, settings.z_dims)
    results: dict[str, Result] = {}
    for name, objective in chosen.items():
        results[name] = train(name, make, images, settings, objective)
    curves = plots.curves({name: [result.history] for name, result in results.items()})
    curves.set_ylabel("loss, each its own (nats per image)")
    finish(
        settings.out,
        table(settings, images, results),
        {"curves": curves.figure, "samples": samples(results, images, settings.seed)},
        {name: result.model for name, result in results.items()},
    )


def known(x_dim: int) -> dict[str, Callable[[int], Any]]:
    """Estimators by name, whose one argument is the number of particles."""
    return {
        "REINFORCE": ELBO,
        "NVIL": lambda k: ELBO(k, baseline=BaselineNet(x_dim)),
        "VIMCO": VIMCO,
        "RWS": RWS,
    }


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
