"""Arguments and sites of `GECO`, for both backends."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, get_args

from ppl_vae.shared.checks import check_fraction, check_positive

Update = Literal["rewo", "geco"]
LARGEST = math.log(1e6)
"""Bound on |log beta|."""
LARGEST_STEP = 0.1
"""Bound on a change of log beta: the constraint is initially violated by hundreds of nats."""


def check_settings(
    tolerance: Any, inner: Any, update: Any, decay: Any, **positive: Any
) -> tuple[str, ...]:
    """Check the arguments of `GECO`, and return `inner` as a tuple."""
    if not (isinstance(tolerance, Real) and math.isfinite(float(tolerance))):
        raise ValueError(f"tolerance should be a finite number, was {tolerance!r}")
    if update not in get_args(Update):
        raise ValueError(f"update should be one of {get_args(Update)}, was {update!r}")
    names = isinstance(inner, Sequence) and not isinstance(inner, str)
    if not (names and all(isinstance(name, str) for name in inner)):
        raise ValueError(f"inner should be a sequence of names of sites, was {inner!r}")
    for name, value in positive.items():
        check_positive(name, value)
    check_fraction("decay", decay)
    return tuple(inner)


def check_sites(draws: Any, inner: Sequence[str]) -> None:
    """Check that draws have what the constraint and the KL term are of."""
    latents = [site for site in draws.guide.values() if not site.observed]
    names = [site.name for site in latents]
    if not latents:
        raise ValueError("guide should draw a latent site, whose KL is made small, drew none")
    for name in inner:
        if name not in names:
            raise ValueError(f"inner should be latent sites of the guide, {names}, had {name!r}")
    for site in (*draws.model.values(), *latents):
        if site.enum_dim is not None or (site.name in names and site.needs_score_function):
            raise ValueError(
                f"site {site.name!r} should be reparametrised, which it is not: use ELBO"
            )
        if not site.local:
            raise ValueError(
                f"site {site.name!r} should lie in the data plate, but it belongs to all data"
            )
        if not isinstance(site.scale, Real) or site.scale != 1:
            raise ValueError(f"site {site.name!r} should have no scale, had {site.scale}")
    if not any(site.observed for site in draws.model.values()):
        raise ValueError("model should have an observed site, on which the constraint is, had none")


def independent_of(
    inner: Sequence[str], names: set[str], particle_dim: int, *, hide: bool
) -> Callable[[Any], bool]:
    """Make a `hide_fn` for `block`; it checks that sites do not depend on `inner`."""

    def hidden(msg: Any) -> bool:
        if msg["type"] != "sample" or msg["name"] not in names:
            return False
        shape = msg["fn"].batch_shape
        if len(shape) >= -particle_dim and shape[particle_dim] > 1:
            raise ValueError(
                "inner should be sites that no other one but the latents of the model depends "
                f"on, was {inner}, on which {msg['name']!r} depends"
            )
        return hide

    return hidden
