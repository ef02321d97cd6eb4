"""Helpers for `tests/objectives/test_renyi.py` and its siblings."""

import bounds
import torch
from torch import Tensor

from ppl_vae import VAE


def wide() -> tuple[VAE, Tensor]:
    """A pair whose guide is wider than the posterior, so that weights have all moments."""
    model, x = bounds.pair()
    with torch.no_grad():
        model.encoder.log_var.weight.mul_(0.3)
        model.encoder.log_var.bias.fill_(0.3)
        model.decoder.log_var.weight.zero_()
    return model, x
