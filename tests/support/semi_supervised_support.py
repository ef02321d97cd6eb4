"""Helpers for `tests/objectives/test_semi_supervised.py` and its siblings."""

import torch
from support import CASE, make, tensors
from torch import Tensor

from ppl_vae import M2

SEMI = CASE["m2-semi-supervised"]


def m2() -> tuple[M2, Tensor, Tensor]:
    return make(SEMI).double(), *tensors(SEMI.data(0), torch.double)
