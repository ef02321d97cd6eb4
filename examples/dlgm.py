"""Deep latent Gaussian models: rank-one against diagonal posteriors, samples, missing pixels.

Rezende, Mohamed & Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep
Generative Models", 2014. The default is a quick run on the handwritten digits that come with
scikit-learn; `--data mnist` is the paper's comparison. Missing pixels, a fraction of them at
random, are imputed by the paper's Markov chain.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from cli import finish, run
from density import DensitySettings, Result, check_some, load, samples, table, train
from matplotlib.figure import Figure

from ppl_vae import plots
from ppl_vae.data import Dynamic, Images
from ppl_vae.inference import impute
from ppl_vae.models import DLGM
from ppl_vae.shared.checks import check_fraction

STEPS = (1, 4, 15, 80)
"""Steps of the chain between two pictures of it."""


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    covariances: Annotated[
        tuple[Literal["diagonal", "rank_one"], ...], tyro.conf.arg(metavar="NAME ...")
    ] = ("diagonal", "rank_one")
    """Covariances of q(xi | x) to compare; differences are relative to the first."""
    z_dims: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (16,)
    """Sizes of xi_1, ..., xi_L; xi_1 is nearest the data."""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (100,)
    """Sizes of the hidden layers between each layer and the next."""
    activation: Literal["relu", "softplus", "tanh"] = "relu"
    """Activation of the hidden layers."""
    batch_norm: bool = True
    """Whether hidden layers have batch normalisation (not in the paper; it learns faster)."""
    missing: float = 0.6
    """Fraction of missing pixels."""
    out: Path = Path("out/dlgm")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        epochs=50,
        batch_size=200,
        lr=2e-3,
        k=5000,
        test_images=1000,
        z_dims=(50,),
        hidden=(500, 500),
    ),
}


def main(settings: Settings) -> None:
    check_some("covariances", settings.covariances)
    check_fraction("missing", settings.missing)
    images = load(settings)
    results: dict[str, Result] = {}
    for covariance in settings.covariances:
        make = partial(
            DLGM,
            images.train.x.shape[1],
            settings.z_dims,
            (settings.hidden,) * len(settings.z_dims),
            covariance,
            settings.activation,
            settings.batch_norm,
        )
        results[covariance] = train(covariance, make, images, settings)
    model = list(results.values())[-1].model
    restored, wrong = imputed(model, images.test, settings)
    report = "\n".join([table(settings, images, results), *wrong])
    figures = {
        "curves": curves(results),
        "samples": samples(results, images, settings.seed),
        "imputation": restored,
    }
    finish(settings.out, report, figures, {name: r.model for name, r in results.items()})


def curves(results: dict[str, Result]) -> Figure:
    ax = plots.curves({name: [result.history] for name, result in results.items()})
    ax.set_ylabel("loss (nats per image)")
    return ax.figure


def imputed(model: DLGM, test: Images, settings: Settings) -> tuple[Figure, list[str]]:
    """Impute ten test images: pictures along the chain, and the error of the missing pixels."""
    rng = np.random.default_rng(settings.seed)
    few = test.x[: settings.test_images]
    x = few.sample(settings.seed) if isinstance(few, Dynamic) else few
    observed = rng.random(x.shape) >= settings.missing
    noise = (rng.random(x.shape) < 0.5).astype(x.dtype)
    states = [np.where(observed, x, noise)]
    for number, steps in enumerate(STEPS):
        states.append(impute(model, states[-1], observed, steps=steps, seed=number).cpu().numpy())
    gap = np.where(observed, x, 0.5)
    rows = np.stack([x, gap, *states])[:, :10]
    labels = ["image", "observed", "step 0", *(f"step {n}" for n in np.cumsum(STEPS))]
    grid = plots.image_grid(rows, test.image_shape, row_labels=labels)
    wrong = [100 * np.sum(state != x) / max(np.sum(~observed), 1) for state in states]
    lines = [
        f"{settings.missing:.0%} of the pixels missing; of these are wrong after "
        + ", ".join(
            f"{step} steps {percent:.1f} %"
            for step, percent in zip((0, *np.cumsum(STEPS)), wrong, strict=True)
        )
    ]
    return grid.figure, lines


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
