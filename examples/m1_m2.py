"""M1 and M1+M2: a classifier, and a semi-supervised model, on the features of a VAE.

Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models", 2014,
section 4. M1 is fitted once, to all training images and no label; then, for each number of labels
and each choice of them, a support vector machine is fitted to the features of the labelled images,
and M2 to those of all images. The default is a quick run on the handwritten digits that come with
scikit-learn; `--data mnist` is the paper's experiment in fewer epochs (the authors' code: 3000 of
M2), with relu, alpha 1 and not 0.1, ten dimensions of z_2, and KL terms in closed form.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from cli import finish, mean_and_error, run
from matplotlib.figure import Figure
from sklearn.svm import SVC

from ppl_vae import data, plots
from ppl_vae.data import Images, NormalFeatures, Splits, hide_labels
from ppl_vae.inference import ELBO, ExponentialDecay, History, SemiSupervised, Warmup, fit
from ppl_vae.models import M1, M1M2, M2, DiagNormalNet, Model
from ppl_vae.shared.checks import as_numpy, check_at_least, check_positive, check_whole, to_mean

SVM, STACKED, JOINT = "M1 + SVM", "M1+M2", "M1+M2, joint"
SVM_DRAWS = 2000
"""Number of samples of the labelled features for the support vector machine."""
PAPER = {
    SVM: {100: 11.82, 600: 5.72, 1000: 4.24, 3000: 3.49},
    STACKED: {100: 3.33, 600: 2.59, 1000: 2.40, 3000: 2.18},
}
"""Table 1 of the paper: test errors in per cent; its machine is a transductive one."""

Layers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")]
Steps = Annotated[tuple[float, float], tyro.conf.arg(metavar="FLOAT FLOAT")]


@dataclass(frozen=True)
class Settings:
    data: Literal["digits", "mnist"] = "digits"
    """Images: scikit-learn's 8x8 digits (no download), or MNIST."""
    binarisation: Literal["dynamic", "threshold", "none"] = "dynamic"
    """Pixels: resampled in every batch, thresholded at 1/2, or grey levels."""
    labels: Layers = (50, 100)
    """Numbers of labelled images, equally many of each class."""
    splits: int = 3
    """Number of random choices of the labelled images."""
    m1_epochs: int = 150
    """Number of epochs of M1."""
    m1_warmup: int = 50
    """Epoch at which the KL term of M1 reaches its full weight."""
    m1_batch_size: int = 50
    """Batch size of M1."""
    m1_lr: Steps = (5e-3, 3e-4)
    """Learning rates of Adam for M1 in the first and in the last epoch."""
    m1_hidden: Layers = (128,)
    """Sizes of the hidden layers of M1's networks."""
    m1_activation: Literal["softplus", "tanh", "relu"] = "softplus"
    """Activation of M1's hidden layers."""
    m1_z_dim: int = 10
    """Size of M1's latent variable: the number of features."""
    epochs: int = 30
    """Number of epochs of M2."""
    batch_size: int = 50
    """Unlabelled images per batch of M2."""
    labelled_per_batch: int = 25
    """Labelled images per batch of M2."""
    lr: Steps = (3e-3, 3e-4)
    """Learning rates of Adam for M2 in the first and in the last epoch."""
    hidden: Layers = (128,)
    """Sizes of the hidden layers of M2's networks."""
    z_dim: int = 4
    """Size of M2's latent variable ("style")."""
    activation: Literal["softplus", "tanh", "relu"] = "softplus"
    """Activation of M2's hidden layers."""
    alpha: float = 1.0
    """Weight of the classification loss (equation 9)."""
    joint_epochs: int = 0
    """Number of epochs of end-to-end training of M1 and M2 afterwards; 0 for none."""
    joint_lr: float = 1e-4
    """Learning rate of Adam in these epochs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is a GPU if there is one."""
    seed: int = 0
    """Random seed; split number i uses seed + i."""
    out: Path = Path("out/m1_m2")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""
    resume: bool = False
    """Continue the run in --out."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        labels=(100, 600, 1000, 3000),
        m1_epochs=60,
        m1_warmup=1,
        m1_batch_size=200,
        m1_lr=(1e-3, 1e-4),
        m1_hidden=(500, 500),
        m1_z_dim=50,
        epochs=40,
        batch_size=100,
        lr=(2e-3, 2e-4),
        hidden=(300,),
        z_dim=10,
        activation="relu",
    ),
}


@dataclass(frozen=True)
class Features:
    """Features that M1 extracts from the three parts of the images."""

    train: NormalFeatures
    validation: NormalFeatures
    test: NormalFeatures


@dataclass(frozen=True)
class Result:
    """A trained classifier: test error in per cent, history of the last fit, total time."""

    error: float
    history: History | None = None
    seconds: float = 0.0


Results = dict[str, dict[int, list[Result]]]
"""Method -> number of labels -> a result of each split."""


def main(settings: Settings) -> None:
    check(settings)
    images: Splits = getattr(data, settings.data)(settings.binarisation)
    y = {n: hidden_labels(settings, images.train, n) for n in settings.labels}
    history = train_m1(settings, images)
    m1 = without_inactive(settings, history.model, images.train.x)
    parts = {name: m1.features(part.x) for name, part in images._asdict().items()}
    features = Features(**{name: NormalFeatures(*part) for name, part in parts.items()})
    methods = [SVM, STACKED, *([JOINT] if settings.joint_epochs else [])]
    results: Results = {method: {n: [] for n in settings.labels} for method in methods}
    for n in settings.labels:
        for split, labels in enumerate(y[n]):
            results[SVM][n].append(train_svm(settings, images, features, labels, split))
            stacked = train_m2(settings, images, features, labels, n, split)
            results[STACKED][n].append(stacked)
            if settings.joint_epochs:
                joint = train_joint(settings, images, m1, stacked, labels, n, split)
                results[JOINT][n].append(joint)
    finish(
        settings.out,
        table(settings, images, history, m1, results),
        pictures(settings, images, history, m1, features, results),
        {"m1": m1} | {f"m2_{n}": model_of(runs[0]) for n, runs in results[STACKED].items()},
    )


def check(settings: Settings) -> None:
    """Check the flags that are first used after M1 is trained."""
    if not settings.labels:
        raise ValueError("labels should be at least one, was none")
    check_at_least("splits", settings.splits, 1)
    check_whole("epochs", settings.epochs, 1)
    check_whole("batch_size", settings.batch_size, 1)
    check_whole("z_dim", settings.z_dim, 1)
    check_at_least("joint_epochs", settings.joint_epochs, 0)
    check_positive("joint_lr", settings.joint_lr)
    decay(settings.lr, settings.epochs)
    objective(settings)
    m2(settings, settings.m1_z_dim, 10)


def hidden_labels(settings: Settings, train: Images, n: int) -> list[np.ndarray]:
    """Return the training labels of each split, all but n of them hidden."""
    seeds = range(settings.seed, settings.seed + settings.splits)
    return [hide_labels(train.y, n, seed, train.n_classes) for seed in seeds]


def train_m1(settings: Settings, images: Splits) -> History:
    """Fit the VAE to all training images without their labels."""
    torch.manual_seed(settings.seed)
    x_dim = images.train.x.shape[1]
    m1 = M1(x_dim, settings.m1_z_dim, settings.m1_hidden, settings.m1_activation)
    m1.decoder.start_at(to_mean(images.train.x).mean(0))
    return fit(
        m1,
        images.train.x,
        ELBO(analytic_kl=True, beta=Warmup(settings.m1_warmup)),
        epochs=settings.m1_epochs,
        batch_size=settings.m1_batch_size,
        lr=decay(settings.m1_lr, settings.m1_epochs),
        validation=images.validation.x,
        **shared(settings, "M1", "m1", 0),
    )


def without_inactive(settings: Settings, m1: M1, x: Any) -> M1:
    """Return M1 without the features that are constant over images.

    Its encoder no longer has them; its decoder takes the mean of the prior, zero, in their place.
    """
    active = torch.as_tensor(NormalFeatures(*m1.features(x)).active(), device=m1.device)
    weights = m1.state_dict()
    for name in ("encoder.loc", "encoder.log_var"):
        weights |= {f"{name}.{key}": weights[f"{name}.{key}"][active] for key in ("weight", "bias")}
    first = "decoder.trunk.layers.0.weight"
    weights[first] = weights[first][:, active]
    small = M1(m1.x_dim, int(active.sum()), settings.m1_hidden, settings.m1_activation)
    return small.with_weights(weights).to(m1.device)


def train_svm(
    settings: Settings, images: Splits, features: Features, y: np.ndarray, split: int
) -> Result:
    """Fit a support vector machine to samples of the labelled images' features."""
    known = np.flatnonzero(y >= 0)
    n_draws = max(2, SVM_DRAWS // len(known))
    seeds = np.random.default_rng(settings.seed + split).integers(2**31, size=n_draws)
    x = np.concatenate([features.train[known].sample(int(seed)) for seed in seeds])
    machine = SVC().fit(x, np.tile(y[known], n_draws))
    return Result(100 * error(machine, features.test.mean, images.test.y))


def train_m2(
    settings: Settings,
    images: Splits,
    features: Features,
    y: np.ndarray,
    n: int,
    split: int,
) -> Result:
    """Fit M2 to the features of all training images, resampled in every batch."""
    torch.manual_seed(settings.seed + split)
    history = fit(
        m2(settings, features.train.shape[1], images.train.n_classes),
        (features.train, y),
        objective(settings),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=decay(settings.lr, settings.epochs),
        validation=validation(features.validation, images.validation.y),
        **shared(settings, f"M2, {n} labels", f"m2/{n}", split),
    )
    test_error = 100 * error(history.model, features.test, images.test.y)
    return Result(test_error, history, history.seconds)


def m2(settings: Settings, n_features: int, n_classes: int) -> M2:
    """Return a new M2 for features."""
    sizes = (settings.hidden, settings.activation)
    decoder = DiagNormalNet((settings.z_dim, n_classes), n_features, *sizes)
    return M2(n_features, n_classes, settings.z_dim, *sizes, decoder=decoder)


def objective(settings: Settings) -> SemiSupervised:
    """That of M2."""
    per_batch = settings.labelled_per_batch
    return SemiSupervised(settings.alpha, analytic_kl=True, labelled_per_batch=per_batch)


def train_joint(
    settings: Settings,
    images: Splits,
    m1: M1,
    stacked: Result,
    y: np.ndarray,
    n: int,
    split: int,
) -> Result:
    """Train all layers together, starting from the trained M1 and M2."""
    lower, upper = copy.deepcopy(m1), copy.deepcopy(model_of(stacked))
    model = M1M2(
        lower.x_dim,
        images.train.n_classes,
        (upper.x_dim, settings.z_dim),
        (settings.m1_hidden, settings.hidden),
        settings.activation,
        encoder=lower.encoder,
        classifier=upper.classifier,
        encoder_2=upper.encoder,
        decoder_2=upper.decoder,
        decoder=lower.decoder,
    )
    history = fit(
        model,
        (images.train.x, y),
        SemiSupervised(settings.alpha),
        epochs=settings.joint_epochs,
        batch_size=settings.batch_size,
        lr=settings.joint_lr,
        validation=validation(images.validation.x, images.validation.y),
        **shared(settings, f"joint, {n} labels", f"joint/{n}", split),
    )
    return Result(100 * error(model, images.test.x, images.test.y), history, history.seconds)


def model_of(result: Result) -> Any:
    assert result.history is not None
    return result.history.model


def decay(steps: tuple[float, float], epochs: int) -> ExponentialDecay:
    return ExponentialDecay(*steps, max(epochs, 2))


def validation(x: Any, y: np.ndarray) -> Callable[[Model], dict[str, float]]:
    return lambda model: {"validation_error": error(model, x, y)}


def shared(settings: Settings, name: str, folder: str, split: int) -> dict[str, Any]:
    """Return the arguments common to all calls of `fit`."""
    alone = name == "M1"
    return {
        "device": settings.device,
        "seed": settings.seed + split,
        "out": settings.out / folder / ("" if alone else f"split{split}"),
        "resume": settings.resume,
        "label": name if alone else f"{name}, split {split + 1}/{settings.splits}",
    }


def error(model: Any, x: Any, y: np.ndarray) -> float:
    """Return the fraction of data that are classified wrongly."""
    return float(np.mean(as_numpy(model.predict(x)) != y))


def table(settings: Settings, images: Splits, history: History, m1: M1, results: Results) -> str:
    """Return a table of means and standard errors over the splits."""
    n_active = m1.features(images.train.x[:1])[0].shape[1]
    lines = [
        f"{settings.data} ({settings.binarisation}), {len(images.train)} training images",
        f"M1: {settings.m1_epochs} epochs, {history.seconds:.0f} seconds; "
        f"{n_active} of {settings.m1_z_dim} features are active",
        f"M2: {settings.epochs} epochs"
        + (f", then {settings.joint_epochs} of M1 and M2 together" * bool(settings.joint_epochs)),
        f"test error %, mean ± standard error of {settings.splits} split(s)",
        f"{'labels':>6}" + "".join(f"{method:>16}" for method in results) + f"{'seconds':>10}",
    ]
    for n in settings.labels:
        errors = [mean_and_error([run.error for run in runs[n]]) for runs in results.values()]
        seconds = sum(np.mean([run.seconds for run in runs[n]]) for runs in results.values())
        lines.append(f"{n:>6}" + "".join(f"{text:>16}" for text in errors) + f"{seconds:>10.0f}")
    return "\n".join([*lines, "seconds: of a split, without M1's"])


def pictures(
    settings: Settings,
    images: Splits,
    history: History,
    m1: M1,
    features: Features,
    results: Results,
) -> dict[str, Figure]:
    """Of M2 with the fewest labels where one M2 is shown."""
    runs = results[STACKED][min(settings.labels)]
    return {
        "errors": errors(settings, results),
        "curves": curves(history, results),
        "features": scatter(features.test.mean, images.test.y),
        "analogies": analogies(images.test, m1, model_of(runs[0])),
    }


def errors(settings: Settings, results: Results) -> Figure:
    """Draw the error against the number of labels, beside the paper's."""
    figure, ax = plt.subplots(figsize=(5.0, 3.5), layout="constrained")
    for number, (method, runs) in enumerate(results.items()):
        values = np.array([[run.error for run in runs[n]] for n in settings.labels])
        spread = values.std(1, ddof=1) / settings.splits**0.5 if settings.splits > 1 else None
        ax.errorbar(settings.labels, values.mean(1), spread, color=f"C{number}", marker="o",
                    label=method)  # fmt: skip
        if settings.data == "mnist" and method in PAPER:
            ns, published = zip(*PAPER[method].items(), strict=True)
            ax.plot(ns, published, f"C{number}x", label=f"{method}, the paper's")
    ax.set(xscale="log", xlabel="labels", ylabel="test error (%)", ylim=(0, None))
    ax.set_xticks(settings.labels, [str(n) for n in settings.labels], minor=False)
    ax.minorticks_off()
    ax.legend(frameon=False)
    return figure


def curves(history: History, results: Results) -> Figure:
    """Draw M1's losses, and the errors of M2 on the validation images."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.5), layout="constrained")
    for column in ("loss", "validation_loss"):
        axes[0].plot(history["epoch"], history[column], label=column.replace("_", " "))
    axes[0].set(xlabel="epoch of M1", ylabel="nats per image")
    axes[0].legend(frameon=False)
    histories = {
        f"{n} labels": [run.history for run in runs if run.history is not None]
        for n, runs in results[STACKED].items()
    }
    plots.curves(histories, "validation_error", axes[1])
    axes[1].set_xlabel("epoch of M2")
    return figure


def scatter(x: np.ndarray, y: np.ndarray, n: int = 2000) -> Figure:
    """Draw the first n features in the plane of their two principal components, by class."""
    centred = x[:n] - x[:n].mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ directions[:2].T
    figure, ax = plt.subplots(figsize=(5.0, 4.0), layout="constrained")
    points = ax.scatter(plane[:, 0], plane[:, 1], c=y[:n], cmap="tab10", vmin=-0.5, vmax=9.5, s=4)
    figure.colorbar(points, label="class", ticks=range(10))
    ax.set(xlabel="first principal component", ylabel="second principal component")
    return figure


@torch.no_grad()
def analogies(test: Images, m1: M1, m2: M2) -> Figure:
    """Each row: an image x, then the means of every class at the style z_2 of x.

    An image is the mean of p(x | z_1) at the mean of p(z_1 | y, z_2).
    """
    first = [int(np.flatnonzero(test.y == label)[0]) for label in range(test.n_classes)]
    x = to_mean(test.x)[first]
    z_1 = m1.features(x)[0]
    z_2 = m2.encoder(z_1, m2.one_hot(m2.predict(z_1))).mean
    classes = m2.one_hot(torch.arange(test.n_classes, device=m2.device))
    means = as_numpy(m1.decoder(m2.decoder(z_2[:, None], classes).mean).mean)
    sheets = np.concatenate([x[:, None], means], axis=1)
    names = [str(label) for label in range(test.n_classes)]
    grid = plots.image_grid(sheets, test.image_shape, column_labels=["x", *names])
    grid.set(xlabel="class y", ylabel="style z_2 of the image x")
    return grid.figure


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
