"""Ladder VAEs: which layers of a deep hierarchy are used, with and without BN and warm-up.

Sønderby, Raiko, Maaløe, Sønderby & Winther, "Ladder variational autoencoders", 2016. The
default is a quick run on the handwritten digits that come with scikit-learn; `--data mnist` has the
paper's networks, its batches and its five layers, and fewer epochs (the paper: 2000, 200 of them
warm-up). VAE is `HierarchicalVAE`, whose guide goes bottom-up; LVAE is `LadderVAE`; BN is batch
normalisation of the hidden layers; WU is a weight of the KL terms that grows from 0 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from cli import finish, run
from density import (
    DensitySettings,
    Result,
    check_made,
    check_some,
    load,
    over_images,
    samples,
    table,
    train,
)

from ppl_vae import plots
from ppl_vae.inference import ELBO, Warmup, kl_per_site
from ppl_vae.models import HierarchicalVAE, LadderVAE
from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.estimates import Estimate

Kind = Literal["VAE", "VAE+BN", "VAE+WU", "VAE+BN+WU", "LVAE", "LVAE+BN", "LVAE+WU", "LVAE+BN+WU"]
ACTIVE = 0.5
"""Smallest KL term of a layer that counts as used, in nats."""


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Command-line flags."""

    models: Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="NAME ...")] = (
        "VAE",
        "VAE+BN+WU",
        "LVAE+BN+WU",
    )
    """Models to compare, VAE or LVAE with or without +BN and +WU; differences are relative to the
    first."""
    layers: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (3,)
    """Numbers of stochastic layers; every model is trained with each."""
    z_dims: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (16, 8, 4, 4, 2)
    """Sizes of z_1, z_2, ...; a model of L layers uses the first L."""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (64, 32, 32, 16, 16)
    """Sizes of the hidden layers, two below each z."""
    warmup: int = 50
    """Number of warm-up epochs."""
    out: Path = Path("out/ladder")
    """Folder for metrics, checkpoints, models and pictures; an earlier run in it is replaced."""


DEFAULTS = {
    "digits": Settings(lr=5e-3, epochs=150),
    "mnist": Settings(
        data="mnist",
        models=("VAE", "LVAE+BN+WU"),
        layers=(5,),
        z_dims=(64, 32, 16, 8, 4),
        hidden=(512, 256, 128, 64, 32),
        epochs=100,
        warmup=20,
        batch_size=256,
        lr=2e-3,
        k=5000,
        test_images=1000,
    ),
}


def main(settings: Settings) -> None:
    check(settings)
    images = load(settings)
    makes = {
        f"{kind}, {layers} layer{'s' * (layers > 1)}": partial(
            maker, kind, layers, images.train.x.shape[1], settings
        )
        for layers in settings.layers
        for kind in settings.models
    }
    check_made(makes.values())
    results: dict[str, Result] = {}
    for name, make in makes.items():
        beta: Any = Warmup(settings.warmup) if "WU" in name else 1.0
        results[name] = train(name, make, images, settings, ELBO(beta=beta))
    terms = {name: kl_per_site(r.model, images.test.x) for name, r in results.items()}
    lines = [table(settings, images, results), active(terms)]
    curves = plots.curves({name: [result.history] for name, result in results.items()})
    curves.set_ylabel("loss, KL weighted by the warm-up (nats per image)")
    bars = plots.bars({name: means_of(layers) for name, layers in terms.items()})
    bars.set_ylabel("KL(q || p) (nats per image)")
    figures = {
        "curves": curves.figure,
        "layers": bars.figure,
        "samples": samples(results, images, settings.seed),
    }
    finish(settings.out, "\n".join(lines), figures, {n: r.model for n, r in results.items()})


def check(settings: Settings) -> None:
    """Check the flags that nothing else checks before the first model is trained."""
    check_some("models", settings.models)
    check_some("layers", settings.layers)
    check_whole("warmup", settings.warmup, 1)
    most = min(len(settings.z_dims), len(settings.hidden))
    for layers in settings.layers:
        if not 1 <= layers <= most:
            raise ValueError(
                f"layers should be 1 to {most}, as many as --z-dims and --hidden have sizes, was "
                f"{layers}"
            )


def maker(kind: str, layers: int, x_dim: int, settings: Settings) -> HierarchicalVAE | LadderVAE:
    """Return a new model of that kind."""
    z_dims: Sequence[int] = settings.z_dims[:layers]
    hidden = tuple((size, size) for size in settings.hidden[:layers])
    norm = "BN" in kind
    if kind.startswith("LVAE"):
        return LadderVAE(x_dim, z_dims, hidden, batch_norm=norm)
    return HierarchicalVAE(x_dim, z_dims, hidden, "leaky_relu", batch_norm=norm)


def means_of(layers: dict[str, Estimate]) -> dict[str, float]:
    """Draw the KL term of each layer."""
    return {site: term.mean for site, term in layers.items()}


def active(terms: dict[str, dict[str, Estimate]]) -> str:
    """Return a table of the KL terms of the layers and the number of layers in use."""
    lines = [f"KL(q || p) of z_1, z_2, ... on the test images, nats; in use: more than {ACTIVE}"]
    for name, layers in terms.items():
        values = ", ".join(over_images(term) for term in layers.values())
        in_use = sum(mean > ACTIVE for mean in means_of(layers).values())
        lines.append(f"{name:22}{values}: {in_use} in use")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, DEFAULTS, __doc__)
