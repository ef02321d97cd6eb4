"""Checks of the sites of model and guide that measurements require."""

import inspect
import itertools
from collections.abc import Mapping, Sequence, Sized
from typing import Any


def check_several(n: int, least: int = 2) -> None:
    """Check that there are enough data for a variance."""
    if n < least:
        raise ValueError(f"data should hold at least {least} data for a variance, held {n}")


def check_some(latents: Sized) -> None:
    """Check that the guide has a latent site."""
    if not latents:
        raise ValueError("guide should draw a latent site for each datum, drew none")


def check_latents(latents: Mapping[str, Any]) -> None:
    """Check that each latent site has a separate value for each datum."""
    check_some(latents)
    for name, site in latents.items():
        if not site.local:
            raise ValueError(
                f"site {name!r} should lie in the data plate, but it belongs to all data"
            )
        if site.mask is not None and site.mask is not True:
            raise ValueError(f"site {name!r} should have no mask: leave out the data it hides")


def check_drawn(model: Mapping[str, Any], latents: Mapping[str, Any]) -> None:
    """Check that the guide draws every latent site of the model, and no other."""
    for name in latents:
        if name not in model:
            raise ValueError(f"site {name!r} of the guide should be one of the model, was not")
    for name, site in model.items():
        if not site.observed and name not in latents:
            raise ValueError(
                f"site {name!r} should be drawn by the guide, was enumerated by the model alone"
            )
    check_latents({name: model[name] for name in latents})


def check_kl_terms(model: Mapping[str, Any], guide: Mapping[str, Any]) -> list[str]:
    """Return the names of the sites that the guide draws, each with its own KL term.

    Raises:
        ValueError: there is no site, or one has no separate term for each datum.
    """
    names = sorted(name for name, site in guide.items() if not site.observed)
    if not names:
        raise ValueError("guide should draw a latent site, for a KL term, drew none")
    for name in names:
        if not guide[name].local or guide[name].enum_dim is not None:
            raise ValueError(
                f"site {name!r} should be drawn in the data plate, was global or enumerated"
            )
        if name not in model:
            raise ValueError(f"site {name!r} of the guide should be one of the model, was not")
        if len(model[name].log_prob.shape) > 2:
            raise ValueError(
                f"site {name!r} should have one prior, but that depends on a site that the model "
                "enumerates: use mean_loss, which covers all sites jointly"
            )
    return names


def closed_given_draws(name: str, model: Mapping[str, Any], guide: Mapping[str, Any]) -> bool:
    """Return whether KL(q || p) of a site, given the sites drawn before, is part of the KL term.

    It is if p does not depend on sites that q draws later: then both are distributions of the
    site given the same draws, which do not depend on it.
    """
    order = list(guide)
    before = order[: order.index(name)]
    above = itertools.takewhile(lambda other: other != name, model)
    return all(model[other].observed or other in before for other in above)


def check_simulated(model: Any, observed: Sequence[str]) -> None:
    """Check that simulations of each observed site can be arguments of the guide."""
    arguments = list(inspect.signature(model.model).parameters)
    missing = [name for name in observed if name not in arguments]
    if missing:
        raise ValueError(
            f"observed sites should have the names of arguments of model(...), {arguments}, so "
            f"that simulations of them can be data, were {missing}"
        )
