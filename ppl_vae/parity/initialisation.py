"""Check that model and port draw their initial weights from the same distributions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch

from ppl_vae.models.base import Model
from ppl_vae.numpyro.models.base import Model as Port
from ppl_vae.parity.comparisons import check_names, check_samples
from ppl_vae.shared.checks import as_numpy, check_whole


def assert_same_initialisation(
    make_model: Callable[[], Model], make_port: Callable[[jax.Array], Port], repeats: int = 20
) -> None:
    """Check that model and port draw their initial weights from the same distributions.

    For each parameter, the values of all repeats are compared by mean, variance, largest size and
    a Kolmogorov-Smirnov test, each with a false-positive rate of about one in a million.

    Args:
        make_model: Makes a Pyro model with torch's global RNG, whose state is restored.
        make_port: Makes a NumPyro model from a random key.
        repeats: Number of models of each kind.

    Raises:
        AssertionError: They differ; names the parameter.
    """
    check_whole("repeats", repeats, 1)
    ours: list[Mapping[str, Any]] = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(repeats):
            torch.manual_seed(seed)
            ours.append({name: as_numpy(p) for name, p in make_model().state_dict().items()})
    theirs = [make_port(jax.random.key(seed)).state_dict() for seed in range(repeats)]
    check_names("parameter", set(ours[0]), set(theirs[0]))
    for name in ours[0]:
        a, b = (np.stack([weights[name] for weights in side]).ravel() for side in (ours, theirs))
        check_samples(name, a.astype(np.float64), b.astype(np.float64))
