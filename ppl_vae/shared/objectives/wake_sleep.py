"""Phases of wake-sleep: arguments and simulated data, for both backends."""

from collections.abc import Mapping
from typing import Any

from ppl_vae.shared.checks import check_flag


def check_phases(k: int, wake_phi: bool, sleep_phi: bool) -> None:
    """Check that the guide has a phase that trains it with k particles."""
    for name, value in (("wake_phi", wake_phi), ("sleep_phi", sleep_phi)):
        check_flag(name, value)
    if not (wake_phi or sleep_phi):
        raise ValueError("wake_phi or sleep_phi should be True to train the guide, was neither")
    if wake_phi and k == 1:
        raise ValueError(
            "k should be at least 2 with wake_phi, was 1: the guide's gradient would be 0 on "
            "average, use WakeSleep"
        )


def in_place_of_data(
    simulated: Mapping[str, tuple[Any, Any]], data: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace observed arguments of a program by simulated values.

    Args:
        simulated: The observed and the simulated value of each observed site, by name.
        data: The positional arguments.
        kwargs: The keyword arguments.

    Raises:
        ValueError: An observed value is not exactly one of the arguments.
    """
    given: dict[Any, Any] = {**dict(enumerate(data)), **kwargs}
    new = dict(given)
    for name, (observed, drawn) in simulated.items():
        places = [place for place, value in given.items() if value is observed]
        if len(places) != 1 or new[places[0]] is not observed:
            was = "a value computed from them" if not places else "one that is used twice"
            raise ValueError(
                f"site {name!r} should observe an argument as it is, for the sleep phase to "
                f"simulate it, observed {was}: use RWS with sleep_phi=False"
            )
        new[places[0]] = drawn
    return tuple(new[i] for i in range(len(data))), {name: new[name] for name in kwargs}
