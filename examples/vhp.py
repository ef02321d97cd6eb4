"""A learned hierarchical prior against N(0, I), with the same encoder, decoder and schedule.

Klushyn, Chen, Kurle, Cseke & van der Smagt, "Learning hierarchical priors in VAEs", 2019: the VHP
is trained by GECO with the "rewo" update, the VAE by the ELBO, and by GECO too: this separates the
effect of the prior from that of the training. Pictures show the latent space, and interpolations
along the graph of the learned prior. The default is a quick run on the handwritten digits that come
with scikit-learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from cli import finish, run
from density import DensitySettings, Result, check_made, load, table, train
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_vae import plots
from ppl_vae.data import Images
from ppl_vae.inference import ELBO, GECO, evenly, path_along_graph
from ppl_vae.models import VAE, VHP, Model
from ppl_vae.shared.checks import as_numpy, check_whole, to_mean

STEPS = 10
"""Number of pictures in an interpolation."""
POINTS = 1000
"""Images, and draws of the prior, in the picture of the latent space."""


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    epochs: int = 150
    """Number of epochs."""
    tolerance: float = 18.0
    """Tolerance of GECO for the VHP: the largest E[-log p(x | z)], in nats per image."""
    k_prior: int = 8
    """Number of samples of zeta for the bound of log p(z)."""
    beta: float = 0.01
    """Initial weight of the KL term."""
    rate: float = 0.02
    """Learning rate of the logarithm of that weight."""
    z_dim: int = 8
    """Size of z; with 2, a picture shows the whole latent space."""
    zeta_dim: int = 8
    """Size of zeta."""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (128,)
    """Sizes of the hidden layers of each network."""
    nodes: int = 1000
    """Number of samples of the learned prior that are nodes of the graph."""
    neighbours: int = 18
    """Number of nearest neighbours to which each node is joined."""
    out: Path = Path("out/vhp")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        epochs=40,
        batch_size=128,
        k=5000,
        test_images=1000,
        tolerance=76.0,
        k_prior=4,
        z_dim=32,
        zeta_dim=32,
        hidden=(256, 256),
        nodes=5000,
    ),
}


def main(settings: Settings) -> None:
    check_whole("nodes", settings.nodes, 1)
    check_whole("n_neighbours", settings.neighbours, 1)
    if settings.neighbours >= settings.nodes:
        raise ValueError(
            f"n_neighbours should be below the number of nodes, {settings.nodes}, was "
            f"{settings.neighbours}"
        )
    images = load(settings)
    x_dim, hidden = images.train.x.shape[1], settings.hidden
    constraint = partial(GECO, settings.tolerance, start=settings.beta, rate=settings.rate)
    vae = partial(VAE, x_dim, settings.z_dim, hidden, "relu")
    vhp = partial(VHP, x_dim, settings.z_dim, settings.zeta_dim, hidden, "relu")
    runs = {
        "VAE": (vae, ELBO()),
        "VAE, GECO": (vae, constraint()),
        "VHP": (vhp, constraint(k=settings.k_prior, inner=("zeta",))),
    }
    check_made(make for make, _ in runs.values())
    results = {
        name: train(name, make, images, settings, objective)
        for name, (make, objective) in runs.items()
    }
    last = results["VHP"].history.rows[-1]
    lines = [
        table(settings, images, results),
        f"VHP: GECO with tolerance {settings.tolerance:g} and {settings.k_prior} draws of zeta; "
        f"at the end -log p(x | z) was {last['reconstruction']:.2f} and beta {last['beta']:.2f}",
    ]
    torch.manual_seed(settings.seed)
    figures = {
        "curves": curves(settings, results),
        "latents": latents(images.test[np.arange(min(POINTS, len(images.test)))], results),
        "interpolations": interpolations(settings, images.test, results["VHP"].model),
    }
    models = {name.lower(): result.model for name, result in results.items()}
    finish(settings.out, "\n".join(lines), figures, models)


def curves(settings: Settings, results: dict[str, Result]) -> Figure:
    """Draw the losses of both models, and the constraint and beta of GECO."""
    histories = {name: [result.history] for name, result in results.items()}
    figure, axes = plt.subplots(1, 3, figsize=(12.0, 3.5), layout="constrained")
    plots.curves(histories, "loss", axes[0]).set_ylabel("loss (nats per image)")
    only = {name: runs for name, runs in histories.items() if name != "VAE"}
    plots.curves(only, "reconstruction", axes[1]).set_ylabel("-log p(x | z), moving average")
    axes[1].axhline(settings.tolerance, color="0.5", label="tolerance")
    axes[1].legend(frameon=False)
    plots.curves(only, "beta", axes[2]).set_yscale("log")
    return figure


def latents(test: Images, results: dict[str, Result]) -> Figure:
    """Draw encodings of test images by class, beside samples of the prior."""
    figure, axes = plt.subplots(1, 3, figsize=(14.0, 4.8), layout="constrained")
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        codes, drawn = encode(result.model, test.x), as_numpy(result.model.sample(POINTS)["z"])
        ax.set_title(name)
        latent_space(ax, codes, drawn, test.y)
        ax.get_legend().remove()
    axes[-1].legend(frameon=False, markerscale=3, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def latent_space(ax: Axes, codes: np.ndarray, drawn: np.ndarray, y: np.ndarray) -> None:
    """Return z itself if it has two dimensions, else its first two principal components."""
    names = ["$z_1$", "$z_2$"]
    if codes.shape[1] != 2:
        centre = codes.mean(0)
        directions = np.linalg.svd(codes - centre, full_matrices=False)[2][:2].T
        codes, drawn = (codes - centre) @ directions, (drawn - centre) @ directions
        names = [f"principal component {i} of z" for i in (1, 2)]
    plots.scatter({"prior": drawn}, ax, colours=["0.8"])
    plots.scatter({str(label): codes[y == label] for label in np.unique(y)}, ax)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def interpolations(settings: Settings, test: Images, model: Any) -> Figure:
    """Interpolate between images of different classes, along the graph and a straight line."""
    prior = model.prior(model.sample(settings.nodes)["zeta"]).mean
    rows, names = [], []
    for first, second in pairs(test):
        ends = encode(model, test[[first, second]].x)
        path = path_along_graph(as_numpy(prior), *ends, n_neighbours=settings.neighbours)
        for name, codes in (("graph", [ends[:1], path, ends[1:]]), ("line", [ends])):
            z = model.as_tensors(evenly(np.concatenate(codes), STEPS))[0]
            rows.append(as_numpy(model.decode({"z": z})))
            names.append(name)
    grid = plots.image_grid(np.stack(rows), test.image_shape, row_labels=names)
    return grid.figure


def pairs(test: Images) -> Sequence[tuple[int, int]]:
    """Return pairs of images: the first of each class, and the first of the next class."""
    first = [int(np.flatnonzero(test.y == label)[0]) for label in np.unique(test.y)]
    return list(zip(first[::2], first[1::2], strict=False))


@torch.no_grad()
def encode(model: Model, x: Any) -> np.ndarray:
    """Return the means of q(z | x); for dynamic binarisation, those of the grey levels."""
    return as_numpy(model.encoder(*model.as_tensors(to_mean(x))).mean)


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
