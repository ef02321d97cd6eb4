"""Structured prediction: the hidden quadrants of an image, given those that are seen.

Sohn, Lee & Yan, "Learning structured output representation using deep conditional generative
models", 2015, in the set-up of Pyro's example. As there, --quadrants counts those that
are seen: 1 is the bottom left one, and three are hidden; 2 is the left half, and two are hidden; 3
is all but the top right one, the only one that is hidden.

For each, a network without latent variables is trained first (`Baseline`, the paper's "NN"); a
`CVAE` gets its prediction as a first guess. Visible pixels are given as grey levels or thresholded
at 1/2; hidden pixels are binary. The networks read and write only these pixels; in images of full
size the others would be constants.

The default is a quick run on the handwritten digits that come with scikit-learn; `--data mnist` is
the paper's experiment.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from cli import finish, mean_and_error, run
from density import DensitySettings, load, step_size
from matplotlib.figure import Figure

from ppl_vae import fit, log_likelihood, mean_loss, plots
from ppl_vae.data import Images, Splits
from ppl_vae.data.images import binarise
from ppl_vae.inference import ELBO, Adam, Hybrid
from ppl_vae.models import CVAE, Baseline
from ppl_vae.shared.checks import as_numpy, check_whole, to_mean
from ppl_vae.shared.training.history import History

PUBLISHED = {1: (100.03, 68.62, 64.05), 2: (62.14, 45.57, 44.96), 3: (26.01, 20.97, 20.97)}
"""Numbers of the paper, MNIST: NN, CVAE by Monte Carlo, by importance sampling; nats per image."""
COMPLETIONS = 6
"""Number of samples in the picture for each image."""


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    quadrants: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (1, 2, 3)
    """Numbers of visible quadrants: 1 (three are hidden), 2 or 3, one run for each."""
    baseline: bool = True
    """Whether the CVAE gets the prediction of a pretrained, frozen network as a first guess."""
    baseline_epochs: int = 30
    """Number of epochs of that network."""
    alpha: float = 1.0
    """Weight of the CVAE's bound; the bound whose guide is the prior has 1 - alpha."""
    z_dim: int = 8
    """Size of the latent variable z."""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (128, 128)
    """Sizes of the hidden layers of each network."""
    activation: Literal["relu", "softplus", "tanh"] = "relu"
    """Activation of the hidden layers."""
    decoder_sees_c: bool = False
    """Whether the decoder is p(x | c, z), or p(x | z) alone as in Pyro's example."""
    k: int = 100
    """Number of samples per image for log p(x | c)."""
    test_images: int = 500
    """Number of test images (the first ones) used for evaluation."""
    out: Path = Path("out/cvae_quadrants")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        epochs=16,
        baseline_epochs=8,
        batch_size=128,
        z_dim=200,
        hidden=(500, 500),
        test_images=10_000,
    ),
}


@dataclass(frozen=True)
class Result:
    """Trained models for a number of quadrants, and -log p(x | c) of each test image."""

    seen: np.ndarray
    cvae: History
    baseline: History | None
    negative_elbo: float
    by_baseline: np.ndarray | None
    by_prior_draws: np.ndarray
    by_importance: np.ndarray

    @property
    def seconds(self) -> float:
        return self.cvae.seconds + (self.baseline.seconds if self.baseline else 0.0)


def main(settings: Settings) -> None:
    if not settings.quadrants:
        raise ValueError("quadrants should be at least one of 1, 2, 3, was empty")
    for quadrants in settings.quadrants:
        seen_pixels((2, 2), quadrants)  # before anything is trained
    check_whole("z_dim", settings.z_dim, 1)
    images = load(settings)
    results = {quadrants: train(settings, images, quadrants) for quadrants in settings.quadrants}
    figures = {"curves": curves(results)}
    models: dict[str, Any] = {}
    for quadrants, result in results.items():
        figures[f"completions_{quadrants}"] = completions(settings, result, images.test)
        models[f"cvae_{quadrants}"] = result.cvae.model
        if result.baseline is not None:
            models[f"baseline_{quadrants}"] = result.baseline.model
    finish(settings.out, table(settings, images, results), figures, models)


def seen_pixels(image_shape: tuple[int, int], quadrants: int) -> np.ndarray:
    """Return the mask of the visible pixels, shape (height * width,)."""
    if quadrants not in (1, 2, 3):
        raise ValueError(f"quadrants should be 1, 2 or 3, those that are seen, was {quadrants}")
    height, width = image_shape
    rows, columns = np.indices(image_shape)
    bottom, left = rows >= height // 2, columns < width // 2
    return {1: bottom & left, 2: left, 3: bottom | left}[quadrants].ravel()


def parts(images: Images, seen: np.ndarray) -> tuple[Any, Any]:
    """Return conditions (visible pixels) and targets (hidden pixels, binary)."""
    pixels = to_mean(images.x)
    return pixels[:, seen], binarise(pixels[:, ~seen], images.binarisation)


def train(settings: Settings, images: Splits, quadrants: int) -> Result:
    """Train and evaluate the network without latent variables, and the CVAE with its guess."""
    objective: ELBO | Hybrid = ELBO(analytic_kl=True)
    if settings.alpha != 1:
        objective = Hybrid(settings.alpha, analytic_kl=True)
    seen = seen_pixels(images.train.image_shape, quadrants)
    sizes = {"x_dim": int((~seen).sum()), "c_dim": int(seen.sum())}
    networks = {"hidden": settings.hidden, "activation": settings.activation}

    def trained(name: str, model: Any, objective: Any, epochs: int) -> History:
        return fit(
            model,
            parts(images.train, seen),
            objective,
            epochs=epochs,
            batch_size=settings.batch_size,
            lr=step_size(settings, epochs),
            optimizer=Adam(eps=settings.adam_eps),
            device=settings.device,
            seed=settings.seed,
            validation=parts(images.validation, seen),
            out=settings.out / f"{name}_{quadrants}",
            resume=settings.resume,
            label=f"{name}, {quadrants} seen",
        )

    first = guess = None
    if settings.baseline:
        torch.manual_seed(settings.seed)
        network = Baseline(**sizes, **networks)
        first = trained("baseline", network, ELBO(), settings.baseline_epochs)
        guess = network.baseline.requires_grad_(False)
    torch.manual_seed(settings.seed)
    model = CVAE(
        **sizes,
        **networks,
        z_dim=settings.z_dim,
        decoder_sees_c=settings.decoder_sees_c,
        baseline=guess,
    )
    history = trained("cvae", model, objective, settings.epochs)

    few = parts(images.test[: settings.test_images], seen)
    return Result(
        seen,
        history,
        first,
        mean_loss(model, few),
        None if first is None else -log_likelihood(first.model, few, 1).values,  # exact
        -log_likelihood(model.gsnn(), few, settings.k).values,
        -log_likelihood(model, few, settings.k).values,
    )


def table(settings: Settings, images: Splits, results: dict[int, Result]) -> str:
    """Return a table of -log p(x | c) by each estimate, beside the paper's numbers on MNIST."""
    seen = {"dynamic": "in grey", "threshold": "cut at 1/2 too"}[settings.binarisation]
    guess = f"{settings.baseline_epochs} of NN, then frozen" if settings.baseline else "no baseline"
    lines = [
        f"{settings.data}, hidden pixels binary ({settings.binarisation}), seen ones {seen}; "
        f"{len(images.train)} training images, batches of {settings.batch_size}",
        f"{settings.epochs} epochs of CVAE with alpha = {settings.alpha:g} ({guess})",
        f"-log p(x | c) of the hidden pixels x given those that are seen, c, in nats per image, ± "
        f"standard error over the first {settings.test_images} test images",
        f"MC: K = {settings.k} draws of the prior p(z | c); IS: importance sampling with K = "
        f"{settings.k} draws of q(z | c, x)",
        f"{'quadrants seen':16}{'NN (exact)':>16}{'CVAE -ELBO':>14}{'CVAE MC':>16}{'CVAE IS':>16}"
        f"{'seconds':>10}",
    ]
    for quadrants, result in results.items():
        by_baseline = "-" if result.by_baseline is None else estimate(result.by_baseline)
        lines.append(
            f"{quadrants:<16}{by_baseline:>16}{result.negative_elbo:>14.2f}"
            f"{estimate(result.by_prior_draws):>16}{estimate(result.by_importance):>16}"
            f"{result.seconds:>10.0f}"
        )
        if settings.data == "mnist":
            nn, mc, importance = PUBLISHED[quadrants]
            lines.append(f"{'  paper':16}{nn:>16.2f}{'':14}{mc:>16.2f}{importance:>16.2f}")
    return "\n".join(lines)


def estimate(values: np.ndarray) -> str:
    return mean_and_error(values.tolist())


def curves(results: dict[int, Result]) -> Figure:
    """Draw the training and validation losses of each epoch."""
    rows = {"CVAE": {f"{n} seen": [r.cvae] for n, r in results.items()}}
    networks = {f"{n} seen": [r.baseline] for n, r in results.items() if r.baseline is not None}
    if networks:
        rows["NN"] = networks
    size = (9.0, 3.5 * len(rows))
    figure, axes = plt.subplots(len(rows), 2, figsize=size, layout="constrained", squeeze=False)
    for line, (name, histories) in zip(axes, rows.items(), strict=True):
        for ax, column in zip(line, ("loss", "validation_loss"), strict=True):
            plots.curves(histories, column, ax)
            ax.set_ylabel(f"{name}, {column.replace('_', ' ')} (nats per image)")
    return figure


def completions(settings: Settings, result: Result, test: Images) -> Figure:
    """Draw an image of each class: visible part, guess, E[x | c, z] for samples of z, truth."""
    first = [int(np.flatnonzero(test.y == label)[0]) for label in range(test.n_classes)]
    images, hidden = to_mean(test.x)[first], ~result.seen
    c, x = images[:, result.seen], images[:, hidden]

    def completed(means: Any) -> np.ndarray:
        whole = images.copy()
        whole[:, hidden] = as_numpy(means)
        return whole

    columns = {"seen": completed(0.5)}
    if result.baseline is not None:
        columns["NN"] = completed(result.baseline.model.reconstruct(c, x))
    torch.manual_seed(settings.seed)
    by_prior = result.cvae.model.gsnn()
    for number in range(1, COMPLETIONS + 1):
        columns[f"z {number}"] = completed(by_prior.reconstruct(c, x))
    columns["image"] = images
    sheets = np.stack(list(columns.values()), axis=1)
    return plots.image_grid(sheets, test.image_shape, column_labels=list(columns)).figure


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
