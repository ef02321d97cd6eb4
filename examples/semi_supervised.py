"""Semi-supervised learning: M2 on labels and unlabelled images, against its classifier alone.

Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models", 2014,
section 4.1. The default is a quick run on the handwritten digits that come with scikit-learn;
`--data mnist` is the paper's experiment, and the defaults of the other flags are then the paper's.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import tyro
from cli import finish, mean_and_error, run
from matplotlib.figure import Figure

from ppl_vae import plots
from ppl_vae.data import Images, Splits, digits, hide_labels, mnist
from ppl_vae.shared.checks import as_numpy, check_at_least, check_positive, check_whole
from ppl_vae.shared.training.history import History

BASELINE_LR = 1e-3
"""Learning rate of Adam for the labels alone: the better one of 1e-3 and 5e-3."""


@dataclass(frozen=True)
class Settings:
    data: Literal["digits", "mnist"] = "digits"
    """Images: scikit-learn's 8x8 digits (no download), or MNIST."""
    binarisation: Literal["dynamic", "threshold", "none"] = "dynamic"
    """Pixels: resampled in every batch, thresholded at 1/2, or grey levels."""
    labels: int = 50
    """Number of labelled images, equally many of each class."""
    splits: int = 5
    """Number of random choices of the labelled images."""
    epochs: int = 600
    """Number of epochs over the unlabelled images."""
    baseline_epochs: int = 1000
    """Number of epochs of the classifier alone; all labelled images are one batch."""
    batch_size: int = 200
    """Unlabelled images per batch."""
    z_dim: int = 4
    """Size of the latent variable z ("style")."""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (128,)
    """Sizes of the hidden layers of each network."""
    activation: Literal["softplus", "tanh", "relu"] = "tanh"
    """Activation of the hidden layers."""
    dropout: Annotated[tuple[float, float], tyro.conf.arg(metavar="FLOAT FLOAT")] = (0.0, 0.0)
    """Dropout rates of the classifier's inputs and hidden units."""
    pretrained: bool = False
    """Initialise M2's classifier with the one trained on the labels alone."""
    alpha: float = 1.0
    """Weight of the classification loss (equation 9)."""
    lr: float = 5e-3
    """Learning rate of Adam."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is a GPU if there is one."""
    seed: int = 0
    """Random seed; split number i uses seed + i."""
    out: Path = Path("out/semi_supervised")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""
    resume: bool = False
    """Continue the run in --out."""
    backend: Literal["pyro", "numpyro"] = "pyro"
    """Implementation to run."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        labels=100,
        splits=10,
        epochs=3000,
        baseline_epochs=300,
        batch_size=500,
        z_dim=50,
        hidden=(500,),
        activation="softplus",
        alpha=0.1,
        lr=3e-4,
    ),
}


class Backend:
    """The few calls that differ between Pyro and NumPyro."""

    def __init__(self, settings: Settings) -> None:
        self.package: Any
        if settings.backend == "numpyro":
            import jax

            import ppl_vae.numpyro as package

            self.as_array: Any = jax.numpy.asarray
            self.random: Any = jax.random
        else:
            import torch

            import ppl_vae as package

            self.as_array = torch.as_tensor
            self.random = torch.random
        self.package = package
        self.key: Any = None

    def seed(self, seed: int) -> None:
        """Of the initial weights of what is made next."""
        if hasattr(self.random, "key"):
            self.key = self.random.key(seed)
        else:
            self.random.manual_seed(seed)

    def make(self, name: str, **arguments: Any) -> Any:
        """Return a new model or network with random weights."""
        cls = getattr(self.package.models, name)
        if self.key is None:
            return cls(**arguments)
        self.key, key = self.random.split(self.key)
        return cls(**arguments, key=key)


@dataclass(frozen=True)
class Result:
    """A trained model: history, test error in per cent, ELBO on the test set in nats."""

    history: History
    error: float
    elbo: float


def main(settings: Settings) -> None:
    check_at_least("splits", settings.splits, 1)
    check_whole("epochs", settings.epochs, 1)
    check_whole("batch_size", settings.batch_size, 1)
    check_positive("lr", settings.lr)
    images = {"digits": digits, "mnist": mnist}[settings.data](settings.binarisation)
    backend = Backend(settings)
    backend.seed(settings.seed)
    objective = backend.package.SemiSupervised(alpha=settings.alpha)
    m2(settings, backend, images, None)  # refused, if it is, before its classifier is trained
    results: dict[str, list[Result]] = {"labels alone": [], "M2": []}
    for split in range(settings.splits):
        y = hide_labels(images.train.y, settings.labels, settings.seed + split, 10)
        alone = train_classifier(settings, backend, images, y, split)
        results["labels alone"].append(alone)
        start = alone.history.model.classifier if settings.pretrained else None
        results["M2"].append(train_m2(settings, backend, images, y, split, start, objective))
    figures = pictures(backend, images.test, results)
    finish(
        settings.out,
        table(settings, results),
        figures,
        {"m2": results["M2"][0].history.model},
    )


def train_classifier(
    settings: Settings, backend: Backend, images: Splits, y: np.ndarray, split: int
) -> Result:
    """Train q(y | x) of M2 on the labelled images only."""
    train, known = images.train, np.flatnonzero(y >= 0)
    backend.seed(settings.seed + split)
    network = classifier(settings, backend, images)
    model = backend.make("Classifier", **shape(images), classifier=network)
    history = backend.package.fit(
        model,
        (train.x[known], y[known]),
        epochs=settings.baseline_epochs,
        batch_size=len(known),
        lr=BASELINE_LR,
        **shared(settings, images, "labels alone", split),
    )
    return Result(history, 100 * error(history.model, images.test), float("nan"))


def train_m2(
    settings: Settings,
    backend: Backend,
    images: Splits,
    y: np.ndarray,
    split: int,
    start: Any,
    objective: Any,
) -> Result:
    """Train M2 on the same labels and all other images of the training set."""
    train = images.train
    backend.seed(settings.seed + split)
    history = backend.package.fit(
        m2(settings, backend, images, start),
        (train.x, y),
        objective,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        **shared(settings, images, "M2", split),
    )
    loss = backend.package.mean_loss(history.model, images.test.x)
    return Result(history, 100 * error(history.model, images.test), -loss)


def m2(settings: Settings, backend: Backend, images: Splits, start: Any) -> Any:
    """Return a new M2; its classifier starts with the weights of the other one, or of `start`.

    It is made first, as there.
    """
    network = copy.deepcopy(start) or classifier(settings, backend, images)
    return backend.make(
        "M2",
        **shape(images),
        z_dim=settings.z_dim,
        hidden=settings.hidden,
        activation=settings.activation,
        classifier=network,
    )


def shape(images: Splits) -> dict[str, int]:
    return {"x_dim": images.train.x.shape[1], "n_classes": images.train.n_classes}


def classifier(settings: Settings, backend: Backend, images: Splits) -> Any:
    """q(y | x), made first after a seed, so that it starts from the same weights in both models."""
    return backend.make(
        "CategoricalNet",
        in_dims=images.train.x.shape[1],
        n_classes=images.train.n_classes,
        hidden=settings.hidden,
        activation=settings.activation,
        dropout=settings.dropout,
    )


def shared(settings: Settings, images: Splits, name: str, split: int) -> dict[str, Any]:
    """Return the arguments common to both calls of `fit`."""
    return {
        "device": settings.device,
        "seed": settings.seed + split,
        "validation": lambda model: {"validation_error": error(model, images.validation)},
        "out": settings.out / name.replace(" ", "_") / f"split{split}",
        "resume": settings.resume,
        "label": f"{name}, split {split + 1}/{settings.splits}",
    }


def error(model: Any, images: Images) -> float:
    """Return the fraction of images that are classified wrongly."""
    return float(np.mean(as_numpy(model.predict(images.x)) != images.y))


def table(settings: Settings, results: dict[str, list[Result]]) -> str:
    """Return a table of means and standard errors over the splits."""
    title = f"{settings.data} ({settings.binarisation}), {settings.labels} labels"
    lines = [
        f"{title}, {settings.splits} split(s), {settings.epochs} epochs, {settings.backend}",
        f"{'':14}{'test error %':>16}{'ELBO (nats)':>18}{'seconds per split':>20}",
    ]
    for name, runs in results.items():
        errors = mean_and_error([run.error for run in runs])
        elbo = mean_and_error([run.elbo for run in runs]) if name == "M2" else "-"
        seconds = float(np.mean([run.history.seconds for run in runs]))
        lines.append(f"{name:14}{errors:>16}{elbo:>18}{seconds:>20.1f}")
    ratio = np.mean([r.error for r in results["M2"]]) / max(
        np.mean([r.error for r in results["labels alone"]]), 1e-9
    )
    return "\n".join([*lines, f"M2 makes {ratio:.2f} of the errors of the labels alone."])


def pictures(backend: Backend, test: Images, results: dict[str, list[Result]]) -> dict[str, Figure]:
    """Draw training curves, analogies and reconstructions of the first split's M2."""
    histories = {name: [run.history for run in runs] for name, runs in results.items()}
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.5), layout="constrained")
    plots.curves({"M2": histories["M2"]}, "loss", axes[0])
    axes[0].set_ylabel("loss (nats per image)")
    plots.curves({"M2": histories["M2"]}, "validation_error", axes[1])
    alone = np.mean([run["validation_error"][-1] for run in histories["labels alone"]])
    axes[1].axhline(alone, color="C1", label="labels alone, at the end")
    axes[1].legend(frameon=False)

    model = results["M2"][0].history.model
    first = [int(np.flatnonzero(test.y == label)[0]) for label in range(test.n_classes)]
    x = getattr(test.x, "probs", test.x)[first]
    sheets = analogies(backend, model, x)
    names = [str(label) for label in range(test.n_classes)]
    grid = plots.image_grid(sheets, test.image_shape, column_labels=["x", *names])
    grid.set_ylabel("style z of the image x")
    grid.set_xlabel("class y")

    own = np.stack([x, sheets[np.arange(len(x)), 1 + as_numpy(model.predict(x))]])
    rows = ["image", "mean"]
    both = plots.image_grid(own, test.image_shape, row_labels=rows, column_labels=names)
    return {"curves": figure, "analogies": grid.figure, "reconstructions": both.figure}


def analogies(backend: Backend, model: Any, x: np.ndarray) -> np.ndarray:
    """Each row: an image x, then E[x | y, z] for every class y at z = E[z | x, y(x)].

    Shape (len(x), 1 + n_classes, x_dim).
    """
    images = backend.as_array(x)
    z = model.encoder(images, model.one_hot(model.predict(x))).mean
    classes = model.one_hot(backend.as_array(np.arange(model.n_classes)))
    means = as_numpy(model.decoder(z[:, None], classes).mean)
    return np.concatenate([x[:, None], means], axis=1)


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
