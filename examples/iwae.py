"""One VAE, trained by several objectives: which bound gives the best density?

Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016, section 5, and what came
after it. All objectives have the same initial weights, batches and number of epochs, so differences
are paired; log p(x) is measured in one way for all. The default is a quick run on the handwritten
digits that come with scikit-learn; `--data mnist` has the paper's network of one layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from cli import finish, run
from density import (
    DensitySettings,
    Result,
    chosen_of,
    load,
    over_images,
    samples,
    table,
    train,
)

from ppl_vae import inference, plots
from ppl_vae.inference import kl_per_site
from ppl_vae.models import VAE

BY_NAME: dict[str, Callable[[int], Any]] = {
    name: getattr(inference, name) for name in ("ELBO", "IWAE", "STL", "DReG")
}
"""Objectives whose one argument is the number of particles."""


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    objectives: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME-K ...")] = (
        "ELBO-1",
        "IWAE-5",
        "DReG-5",
    )
    """Objectives (ELBO, IWAE, STL, DReG) with numbers of particles; differences are relative to the
    first."""
    z_dim: int = 16
    """Size of z."""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (100, 100)
    """Sizes of the hidden layers of q(z | x); p(x | z) has them in reverse order."""
    out: Path = Path("out/iwae")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        train_on="train+validation",
        epochs=60,
        k=5000,
        test_images=1000,
        objectives=("ELBO-1", "IWAE-5"),
        z_dim=50,
        hidden=(200, 200),
    ),
}


def main(settings: Settings) -> None:
    chosen = chosen_of("objectives", settings.objectives, BY_NAME)
    images = load(settings)
    make = partial(VAE, images.train.x.shape[1], settings.z_dim, settings.hidden, "tanh")
    results: dict[str, Result] = {}
    for name, objective in chosen.items():
        results[name] = train(name, make, images, settings, objective)
    lines = [table(settings, images, results), "KL(q || p), test images, nats:"]
    for name, result in results.items():
        kl = kl_per_site(result.model, images.test.x)["z"]
        lines.append(f"{name:22}{over_images(kl)}")
    curves = plots.curves({name: [result.history] for name, result in results.items()})
    curves.set_ylabel("loss, each its own (nats per image)")
    figures = {"curves": curves.figure, "samples": samples(results, images, settings.seed)}
    models = {name: result.model for name, result in results.items()}
    finish(settings.out, "\n".join(lines), figures, models)


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
