"""Methods and effort of `log_likelihood`."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ppl_vae.shared.checks import check_choice, check_whole
from ppl_vae.shared.evaluation.annealing import Annealing

Method: TypeAlias = Literal["iw", "ais"]


@dataclass(frozen=True)
class Weighing:
    """The effort of importance sampling.

    Args:
        k: Number of draws for each datum.
        particles: Number of draws per datum that are evaluated at once.
    """

    k: int = 5000
    particles: int = 50

    def __post_init__(self) -> None:
        for name in ("k", "particles"):
            check_whole(name, getattr(self, name), 1)


def effort_of(
    method: Method,
    *,
    k: int | None,
    particles: int | None,
    chains: int | None,
    temperatures: int | None,
    leapfrog_steps: int | None,
    adaptation: int | None,
) -> Weighing | Annealing:
    """Return the effort of a method from its own arguments; None means the default.

    Raises:
        ValueError: an argument is invalid, or belongs to the other method.
    """
    check_choice("method", method, get_args(Method))
    weighing = _given(k=k, particles=particles)
    annealing = _given(
        chains=chains,
        temperatures=temperatures,
        leapfrog_steps=leapfrog_steps,
        adaptation=adaptation,
    )
    own, foreign = (weighing, annealing) if method == "iw" else (annealing, weighing)
    _check_unused(foreign, method, ("ais" if method == "iw" else "iw",))
    return Weighing(**own) if method == "iw" else Annealing(**own)


def annealing_of(method: str, users: tuple[str, ...], **arguments: int | None) -> Annealing | None:
    """Return the effort of annealed importance sampling, if the method is one of its `users`.

    Raises:
        ValueError: an argument is invalid, or the method does not use it.
    """
    given = _given(**arguments)
    if method in users:
        return Annealing(**given)
    _check_unused(given, method, users)
    return None


def _check_unused(foreign: dict[str, int], method: str, users: tuple[str, ...]) -> None:
    if foreign:
        name, value = next(iter(foreign.items()))
        raise ValueError(
            f"{name} should be left out with method={method!r}, which does not use it, was "
            f"{value!r}: it belongs to method={' or '.join(map(repr, users))}"
        )


def _given(**arguments: int | None) -> dict[str, int]:
    return {name: value for name, value in arguments.items() if value is not None}
