"""Settings and checks of the posteriors that `gaps` fits to single data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ppl_vae.shared.checks import check_choice, check_positive, check_whole

FAMILIES = ("gaussian", "full", "flow")
METHODS = ("iw", "ais", "both")
INITIAL_DRAWS = 100
"""Number of draws from the guide for the initial mean and scale of q*."""
BLOCK = 100
"""Number of steps over which the ELBO is averaged to measure progress."""
TOLERANCE = 1e-4
"""Smallest improvement of a block, in nats per datum."""
LAYERS, HIDDEN, MAX_LOG_SCALE = 4, 32, 2.0
"""Number of layers, hidden units per layer and largest log scale of a layer of the flow."""


@dataclass(frozen=True)
class LocalFit:
    """The effort of fitting a posterior to each datum.

    Args:
        steps: Largest number of Adam steps.
        lr: Initial learning rate; it is halved after a block without improvement.
        draws: Number of draws from each q* per step.
        patience: Number of blocks without improvement after which fitting stops.
    """

    steps: int
    lr: float
    draws: int
    patience: int

    def __post_init__(self) -> None:
        for name in ("steps", "draws", "patience"):
            check_whole(name, getattr(self, name), 1)
        check_positive("lr", self.lr)

    @property
    def blocks(self) -> list[int]:
        """The number of steps of each block."""
        whole, rest = divmod(self.steps, BLOCK)
        return [BLOCK] * whole + [rest] * (rest > 0)


def check_families(families: Sequence[str], method: str) -> tuple[str, ...]:
    """Return the families in the order of fitting."""
    check_choice("method", method, METHODS)
    if isinstance(families, str) or not isinstance(families, Sequence) or not families:
        raise ValueError(f"families should be some of {FAMILIES}, was {families!r}")
    for family in families:
        check_choice("each of families", family, FAMILIES)
    return tuple(name for name in FAMILIES if name in families)


def check_guide(drawn: Mapping[str, bool], latents: Sequence[str]) -> None:
    """Check that the guide draws the latents of q*, and nothing else.

    Args:
        drawn: The latent sites of the guide, and whether they are enumerated.
        latents: The continuous latent sites of the model.
    """
    for name, enumerated in drawn.items():
        if enumerated:
            raise ValueError(
                f"site {name!r} should be enumerated by the model alone, so that bounds of the "
                "guide and of q* are of the same latents, was by the guide: use a guide without it"
            )
        if name not in latents:
            raise ValueError(
                f"site {name!r} of the guide should be a continuous latent of the model, was not"
            )


def check_dimension(dim: int, families: Sequence[str]) -> None:
    """Check that a flow has at least two numbers to couple."""
    if dim < 2 and "flow" in families:
        raise ValueError(
            "families should not hold 'flow' for a single latent number, which has none to be "
            "coupled with, held it: use families=('gaussian',)"
        )
