"""The port: the models and objectives of `ppl_vae` in NumPyro, under the same names.

Requires the extra: `pip install 'ppl_vae[numpyro]'`. Each file mirrors the Pyro file of the same
name and refers to it for equations and references. General differences:

- Random keys are explicit: `key`, keyword-only and last, where a class is made or draws are made.
- Models are immutable Equinox modules: `with_weights` and `fit` return a new one.
- Parameters have torch's names and layouts, so weights and files work with both backends.
"""

from importlib.util import find_spec

for _name in ("numpyro", "jax", "equinox", "optax"):
    if find_spec(_name) is None:
        raise ImportError(
            f"ppl_vae.numpyro should find the package {_name}, which is not installed: "
            "pip install 'ppl_vae[numpyro]'",
            name=_name,
        )

from ppl_vae.numpyro.inference import (  # noqa: E402
    ELBO,
    SemiSupervised,
    fit,
    log_likelihood,
    mean_loss,
)
from ppl_vae.numpyro.models import M2, VAE, Classifier, Model  # noqa: E402

__all__ = [
    "ELBO",
    "M2",
    "VAE",
    "Classifier",
    "Model",
    "SemiSupervised",
    "fit",
    "log_likelihood",
    "mean_loss",
]
