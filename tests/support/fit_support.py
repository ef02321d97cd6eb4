"""Helpers for `tests/training/test_fit.py` and its siblings."""

from typing import Any

from support import CASE

from ppl_vae import Model, fit
from ppl_vae.inference import History

VAE_CASE, M2_CASE, SEMI = CASE["vae"], CASE["m2-unlabelled"], CASE["m2-semi-supervised"]


(X,) = VAE_CASE.data(0)


def run(model: Model, data: Any = X, objective: Any = None, **settings: Any) -> History:
    settings = {"epochs": 2, "batch_size": 10, "lr": 1e-2, "progress": False, **settings}
    return fit(model, data, objective, **settings)
