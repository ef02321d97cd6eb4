"""Lookup of a model's backend by name."""

from importlib import import_module
from typing import Any, ClassVar, Protocol

from ppl_vae.shared.evaluation.pair import Pair

PACKAGES = {"pyro": "ppl_vae", "numpyro": "ppl_vae.numpyro"}


class AnyModel(Protocol):
    """A model/guide pair of either backend."""

    backend: ClassVar[str]

    def check(self, *data: Any) -> None:
        """Raise a ValueError unless `data` are arguments of the model."""


class AnyObjective(Protocol):
    """An objective of either backend."""

    k: int

    def check(self, model: Any, *data: Any) -> None:
        """Raise a ValueError unless `data` are arguments of the loss."""


def module_of(model: AnyModel, name: str) -> Any:
    """Return the module `name` of the package of the model's backend.

    It is imported by name when it is first needed: `shared` imports neither torch nor jax, and
    neither backend imports the other. The checks of the Pyro backend refuse an object that is not
    a model.
    """
    package = PACKAGES.get(getattr(model, "backend", ""), PACKAGES["pyro"])
    return import_module(f"{package}.{name}")


def pair_of(model: AnyModel, data: Any, **settings: Any) -> Pair:
    """Return the `TrainedPair` of the model's backend; `settings` are those of `Pair`."""
    backend = module_of(model, "inference.evaluation.trained_pair")
    pair: Pair = backend.TrainedPair(model, data, **settings)
    return pair
