"""Flags, training and tables of the scripts that compare densities."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from cli import file_name, mean_and_error
from matplotlib.figure import Figure

from ppl_vae import data, fit, log_likelihood, mean_loss, plots
from ppl_vae.data import Splits
from ppl_vae.inference import Adam, ExponentialDecay, Piecewise
from ppl_vae.models import Model
from ppl_vae.shared.checks import as_numpy, check_positive, check_whole, to_mean
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.training.history import History


@dataclass(frozen=True)
class DensitySettings:
    data: Literal["digits", "mnist"] = "digits"
    """Images: scikit-learn's 8x8 digits (no download), or MNIST."""
    binarisation: Literal["dynamic", "threshold"] = "dynamic"
    """Binarisation of the pixels: resampled in every batch, or thresholded at 1/2."""
    train_on: Literal["train", "train+validation"] = "train"
    """Training images; the validation images are not used for model selection."""
    epochs: int = 100
    """Number of epochs."""
    batch_size: int = 100
    """Batch size."""
    lr: float = 1e-3
    """Learning rate of Adam in the first epoch."""
    lr_end: float = 1e-4
    """Learning rate in the last epoch; it decays exponentially."""
    schedule: Literal["decay", "burda"] = "decay"
    """Learning rate: a decay from --lr to --lr-end, or the 8 stages of Burda et al. (2016), which
    take 3280 epochs."""
    adam_eps: float = 1e-8
    """Adam's epsilon; Burda et al. use 1e-4."""
    k: int = 500
    """Number of samples per image for log p(x)."""
    test_images: int = 360
    """Number of test images (the first ones) on which log p(x) is estimated."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is a GPU if there is one."""
    seed: int = 0
    """Random seed, the same for all models."""
    out: Path = Path("out")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""
    resume: bool = False
    """Continue the run in --out."""


@dataclass(frozen=True)
class Result:
    """A trained model, its bound on all test images, and log p(x) of the first ones, in nats."""

    history: History
    elbo: float
    log_likelihood: Estimate

    @property
    def model(self) -> Any:
        return self.history.model


def load(settings: DensitySettings) -> Splits:
    """Return the images, after checking flags that would otherwise fail after the training."""
    check_whole("epochs", settings.epochs, 1)
    check_whole("test_images", settings.test_images, 2)
    check_whole("k", settings.k, 1)
    check_positive("lr", settings.lr)
    check_positive("lr_end", settings.lr_end)
    check_positive("adam_eps", settings.adam_eps)
    images: Splits = getattr(data, settings.data)(settings.binarisation)
    if settings.test_images > len(images.test):
        raise ValueError(
            f"test_images should be at most {len(images.test)}, was {settings.test_images}"
        )
    if settings.train_on == "train":
        return images
    return images._replace(train=images.train.join(images.validation))


def check_some(name: str, values: Sequence[Any]) -> None:
    """Check that a flag that takes a list has at least one value."""
    if not values:
        raise ValueError(f"{name} should be at least one, was none")


def chosen_of(
    flag: str, names: Sequence[str], known: Mapping[str, Callable[[int], Any]]
) -> dict[str, Any]:
    """Return the objective for each name such as IWAE-5: a kind and a number of particles.

    Raises:
        ValueError: no objective has that name.
    """
    check_some(flag, names)
    chosen = {}
    for name in names:
        kind, _, k = name.partition("-")
        if kind not in known or not k.isdecimal():
            example = f"{next(iter(known))}-5"
            raise ValueError(
                f"{flag} should be {', '.join(known)} and a number, as in {example}, was {name!r}"
            )
        chosen[name] = known[kind](int(k))
    return chosen


def check_made(makes: Iterable[Callable[[], Model]]) -> None:
    """Make each model once, so that invalid arguments are found before any is trained."""
    for make in makes:
        make()


def train(
    name: str,
    make: Callable[[], Model],
    images: Splits,
    settings: DensitySettings,
    objective: Any = None,
) -> Result:
    """Train and evaluate a new model, initialised by the seed.

    Args:
        name: Name of the model and of its folder in `--out`.
        make: Makes the model.
        images: Data set, of which the training and test parts are used.
        settings: The flags.
        objective: Training objective; by default `ELBO()`.
    """
    torch.manual_seed(settings.seed)
    model = make()
    decoder: Any = model.decoder
    decoder.start_at(to_mean(images.train.x).mean(0))
    history = fit(
        model,
        images.train.x,
        objective,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=step_size(settings, settings.epochs),
        optimizer=Adam(eps=settings.adam_eps),
        device=settings.device,
        seed=settings.seed,
        out=settings.out / file_name(name),
        resume=settings.resume,
        label=name,
    )
    few = images.test.x[: settings.test_images]
    log_p = log_likelihood(history.model, few, settings.k)
    return Result(history, -mean_loss(history.model, images.test.x), log_p)


def step_size(settings: DensitySettings, epochs: int) -> Any:
    """Return the learning rate of Adam, a number or a schedule, for a run of that length."""
    if settings.schedule == "burda":
        return Piecewise.burda()
    if settings.lr_end == settings.lr:
        return settings.lr
    return ExponentialDecay(settings.lr, settings.lr_end, max(epochs, 2))


def samples(results: dict[str, Result], images: Splits, seed: int) -> Figure:
    """Draw the means of p(x | z) for 64 samples of the last model's prior."""
    name, result = list(results.items())[-1]
    torch.manual_seed(seed)
    means = as_numpy(result.model.decode(result.model.sample(64)))
    ax = plots.image_grid(means.reshape(8, 8, -1), images.test.image_shape)
    ax.set_title(f"{name}: means of p(x | z), z drawn from the prior")
    return ax.figure


def table(settings: DensitySettings, images: Splits, results: dict[str, Result]) -> str:
    """Return a table with a row for each model; differences to the first are paired by image."""
    lines = [
        f"{settings.data} ({settings.binarisation}), {len(images.train)} training images, "
        f"{settings.epochs} epochs, batches of {settings.batch_size}",
        f"ELBO: {len(images.test)} test images; log p(x): the first {settings.test_images}, "
        f"importance sampling with k = {settings.k}; nats, ± standard error over images",
        f"{'':22}{'ELBO':>10}{'log p(x)':>18}{'difference':>18}{'seconds':>10}",
    ]
    first = next(iter(results.values())).log_likelihood
    for name, result in results.items():
        log_p = over_images(result.log_likelihood)
        more = over_images(result.log_likelihood - first)
        difference = "-" if result.log_likelihood is first else more
        seconds = result.history.seconds
        lines.append(f"{name:22}{result.elbo:>10.2f}{log_p:>18}{difference:>18}{seconds:>10.0f}")
    return "\n".join(lines)


def over_images(estimate: Estimate) -> str:
    """Return mean ± standard error over images, as text."""
    return mean_and_error(estimate.values.tolist())
