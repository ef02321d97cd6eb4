"""Helpers for `tests/evaluation/test_gaps.py` and its siblings."""

import math
from typing import Any

import linear_gaussian as exact
import numpy as np
import torch
from torch import Tensor

from ppl_vae.models import VAE
from ppl_vae.shared.evaluation.estimates import Estimate

FAST: dict[str, Any] = {"k": 4000, "particles": 2000, "steps": 800, "lr": 0.05, "patience": 4}


LOADING = [[0.9, 0.5], [0.6, 0.8], [0.3, -0.2]]


def double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.double)


@torch.no_grad()
def correlated() -> VAE:
    """A linear Gaussian pair whose posterior has correlated entries."""
    model = exact.vae()
    model.decoder.loc.weight.copy_(double(LOADING))
    model.decoder.log_var.weight.zero_()
    model.decoder.log_var.bias.fill_(math.log(0.4))
    return model


def factorised_gap(precision: Tensor) -> float:
    """KL of the nearest N(m, diag s^2), s_d^-2 = precision_dd, from a Gaussian."""
    return 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))


def assert_near(found: Estimate, truth: Any, slack: float, error: float = 0.03) -> None:
    """Within 4 standard errors and what the optimisation lacks, both small."""
    assert (found.errors < error).all(), found.errors
    away = abs(found.values - np.asarray(truth))
    assert (away <= 4 * found.errors + slack).all(), (away, found.errors)
