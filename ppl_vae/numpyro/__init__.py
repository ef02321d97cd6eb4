"""The port: the models and objectives of `ppl_vae` in NumPyro, under the same names.

Needs the extra: `pip install 'ppl_vae[numpyro]'`. Each file is the text of the Pyro file of its
name under another import, and refers to it for equations and references. What differs everywhere:

- Random keys are given: `key`, keyword-only and last, where a class is made or something is drawn.
- Models are Equinox modules and do not change: `with_weights` and `fit` return a new one.
- Parameters have torch's names and layouts, so weights and files travel between the backends.
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
