"""Deep generative latent-variable models as Pyro model/guide pairs, checked against NumPyro ports.

The names below are loaded on first use: importing the package is cheap, and neither torch nor jax
is imported before it is needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae.data import digits, hide_labels, mnist
    from ppl_vae.inference import ELBO, SemiSupervised
    from ppl_vae.inference.evaluation.log_likelihood import log_likelihood
    from ppl_vae.inference.evaluation.loss import mean_loss
    from ppl_vae.inference.training.fit import fit
    from ppl_vae.models import M2, VAE, Classifier, Model

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "M2",
    "VAE",
    "Classifier",
    "Model",
    "SemiSupervised",
    "digits",
    "fit",
    "hide_labels",
    "log_likelihood",
    "mean_loss",
    "mnist",
]

_HOMES = {
    "ppl_vae.data": ("digits", "hide_labels", "mnist"),
    "ppl_vae.inference": ("ELBO", "SemiSupervised", "fit", "log_likelihood", "mean_loss"),
    "ppl_vae.models": ("Classifier", "M2", "Model", "VAE"),
}
_ROOMS = ("data", "inference", "models", "numpyro", "parity", "plots")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"ppl_vae.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_ROOMS])
