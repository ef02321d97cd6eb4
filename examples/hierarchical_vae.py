"""One, two and more layers of latent variables, without and with skip connections.

Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016, section 5 (the networks of
one and of two layers, here trained by the ELBO with one draw); Dieng, Kim, Rush & Blei, "Avoiding
latent variable collapse with generative skip models", 2019 (skip connections). The default is a
quick run on the handwritten digits that come with scikit-learn; `--data mnist` has the first
paper's networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from cli import finish, run
from density import (
    DensitySettings,
    check_made,
    check_some,
    load,
    over_images,
    samples,
    table,
    train,
)

from ppl_vae import plots
from ppl_vae.inference import kl_per_site
from ppl_vae.models import VAE, HierarchicalVAE, Model

Kind = Literal["1-layer", "2-layer", "2-layer-skip"]


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    models: Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="NAME ...")] = (
        "1-layer",
        "2-layer",
        "2-layer-skip",
    )
    """Models to compare; differences are relative to the first."""
    z_dims: Annotated[tuple[int, int], tyro.conf.arg(metavar="INT INT")] = (16, 8)
    """Sizes of z_1 and z_2; the one-layer model uses the second (as in the paper)."""
    hidden: Annotated[tuple[int, int], tyro.conf.arg(metavar="INT INT")] = (100, 50)
    """Sizes of the two hidden layers below z_1, and of the two between z_1 and z_2."""
    out: Path = Path("out/hierarchical_vae")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(),
    "mnist": Settings(
        data="mnist",
        epochs=350,
        k=5000,
        test_images=1000,
        z_dims=(100, 50),
        hidden=(200, 100),
    ),
}


def main(settings: Settings) -> None:
    check_some("models", settings.models)
    images = load(settings)
    makes = {name: maker(name, images.train.x.shape[1], settings) for name in settings.models}
    check_made(makes.values())
    results = {name: train(name, make, images, settings) for name, make in makes.items()}
    lines = [table(settings, images, results), "KL(q || p) of each layer, test images, nats:"]
    for name, result in results.items():
        parts = kl_per_site(result.model, images.test.x)
        text = ", ".join(f"{site} {over_images(term)}" for site, term in parts.items())
        lines.append(f"{name:22}{text}")
    curves = plots.curves({name: [result.history] for name, result in results.items()})
    curves.set_ylabel("loss (nats per image)")
    finish(
        settings.out,
        "\n".join(lines),
        {"curves": curves.figure, "samples": samples(results, images, settings.seed)},
        {name: result.model for name, result in results.items()},
    )


def maker(name: str, x_dim: int, settings: Settings) -> Callable[[], Model]:
    """Return the function that makes the model of that name."""
    one, two = ((size, size) for size in settings.hidden)
    if name == "1-layer":
        return partial(VAE, x_dim, settings.z_dims[1], one, "tanh")
    skip = name.endswith("skip")
    return partial(HierarchicalVAE, x_dim, settings.z_dims, (one, two), "tanh", skip)


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
