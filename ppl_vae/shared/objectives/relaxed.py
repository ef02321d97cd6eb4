"""Checks of the sites that `Relaxed` relaxes, for both backends."""

from collections.abc import Collection
from typing import Any


def check_relaxable(name: str, kind: str, kinds: Collection[str], infer: Any) -> None:
    """Check that a latent site of the guide is continuous or of one of `kinds`.

    Args:
        name: Name of the site.
        kind: "continuous", or the name of the discrete distribution.
        kinds: The discrete distributions that have a relaxation.
        infer: The site's `infer` dictionary.
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
    """Check that both programs draw a latent site from the same kind of distribution."""
    if of_model != of_guide:
        raise ValueError(
            f"site {name!r} should be of one kind in model and guide, was {of_model} in the model "
            f"and {of_guide} in the guide"
        )


def check_not_given(name: str, value: Any) -> None:
    """Check that a discrete latent to be relaxed has no given value."""
    if value is not None:
        raise ValueError(
            f"site {name!r} should be drawn to be relaxed, was given a value: condition the "
            "program on it, or use ELBO"
        )


def check_some_discrete(kinds: Collection[str]) -> None:
    """Check that at least one latent of the guide is discrete."""
    if all(kind == "continuous" for kind in kinds):
        raise ValueError("guide should draw a discrete latent, drew none: use ELBO or IWAE")
