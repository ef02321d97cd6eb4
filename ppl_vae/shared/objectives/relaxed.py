"""Which sites of a pair can be relaxed, for both backends."""

from collections.abc import Collection
from typing import Any


def check_relaxable(name: str, kind: str, kinds: Collection[str], infer: Any) -> None:
    """A latent site of the guide is continuous, or is drawn from one of `kinds`.

    Args:
        name: Of the site.
        kind: What it is drawn from, "continuous" or a discrete distribution.
        kinds: The discrete distributions that have a relaxation.
        infer: The site's marks.
    """
    if kind not in ("continuous", *kinds):
        raise ValueError(
            f"site {name!r} should be {', '.join(kinds)} or continuous, was {kind}, which has no "
            "relaxation here: use VIMCO or ELBO"
        )
    if kind != "continuous" and infer.get("enumerate") == "parallel":
        raise ValueError(
            f"site {name!r} should not be enumerated by the guide, which sums over its values "
            "instead of relaxing them: leave out the mark, or use ELBO"
        )


def check_one_kind(name: str, of_model: str, of_guide: str) -> None:
    """Both programs draw a latent site from the same kind of distribution."""
    if of_model != of_guide:
        raise ValueError(
            f"site {name!r} should be of one kind in model and guide, was {of_model} in the model "
            f"and {of_guide} in the guide"
        )


def check_not_given(name: str, value: Any) -> None:
    """A discrete latent that is to be relaxed is drawn, and not given a discrete value."""
    if value is not None:
        raise ValueError(
            f"site {name!r} should be drawn to be relaxed, was given a value: condition the "
            "program on it, or use ELBO"
        )


def check_some_discrete(kinds: Collection[str]) -> None:
    """One of the guide's latents is discrete."""
    if all(kind == "continuous" for kind in kinds):
        raise ValueError("guide should draw a discrete latent, drew none: use ELBO or IWAE")
