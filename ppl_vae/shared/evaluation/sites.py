"""What measurements ask of the sites of model and guide, of either backend."""

import inspect
import itertools
from collections.abc import Mapping, Sequence, Sized
from typing import Any


def check_several(n: int, least: int = 2) -> None:
    """There are data enough for a variance over them."""
    if n < least:
        raise ValueError(f"data should hold at least {least} data for a variance, held {n}")


def check_some(latents: Sized) -> None:
    """The guide draws something."""
    if not latents:
        raise ValueError("guide should draw a latent site for each datum, drew none")


def check_latents(latents: Mapping[str, Any]) -> None:
    """Each latent site has a value of its own for each datum."""
    check_some(latents)
    for name, site in latents.items():
        if not site.local:
            raise ValueError(
                f"site {name!r} should lie in the data plate, but it belongs to all data"
            )
        if site.mask is not None and site.mask is not True:
            raise ValueError(f"site {name!r} should have no mask: leave out the data it hides")


def check_drawn(model: Mapping[str, Any], latents: Mapping[str, Any]) -> None:
    """The guide draws every latent site of the model, and no other."""
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
    """The sites that the guide draws, by name, of which each has a KL term of its own.

    Raises:
        ValueError: there is none, or one has no such term for each datum.
    """
    names = sorted(name for name, site in guide.items() if not site.observed)
    if not names:
        raise ValueError("guide should draw a latent site, of which there is a KL term, drew none")
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
                "enumerates: use mean_loss, which is of all sites together"
            )
    return names


def closed_given_draws(name: str, model: Mapping[str, Any], guide: Mapping[str, Any]) -> bool:
    """Whether KL(q || p) of a site, given what was drawn before, is a part of the KL term.

    It is if p depends on nothing that q draws after the site: then both are distributions of the
    site given the same draws, which do not depend on it.
    """
    order = list(guide)
    before = order[: order.index(name)]
    above = itertools.takewhile(lambda other: other != name, model)
    return all(model[other].observed or other in before for other in above)


def check_simulated(model: Any, observed: Sequence[str]) -> None:
    """What was simulated of each observed site is data of the guide."""
    arguments = list(inspect.signature(model.model).parameters)
    missing = [name for name in observed if name not in arguments]
    if missing:
        raise ValueError(
            f"observed sites should have the names of arguments of model(...), {arguments}, so "
            f"that simulations of them can be data, were {missing}"
        )
