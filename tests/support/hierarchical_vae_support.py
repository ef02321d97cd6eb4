"""Helpers for `tests/models/test_hierarchical_vae.py` and its siblings."""

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


Affine = tuple[Tensor, Tensor]
"""A normal vector as mean (N, dim) and its matrix T (dim, noise) in mean + T eps."""


def push(network: nn.Module, *inputs: Affine) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and matrix of a network's location, which is linear in its inputs, and its variance."""
    zeros = [torch.zeros_like(mean[0]) for mean, _ in inputs]
    mean = network(*[mean for mean, _ in inputs]).base_dist.loc
    at_zero = network(*zeros).base_dist
    matrix = torch.zeros((), dtype=torch.double)
    for i, (_, noise) in enumerate(inputs):
        units = torch.eye(len(zeros[i]), dtype=torch.double)
        columns = network(*zeros[:i], units, *zeros[i + 1 :]).base_dist.loc - at_zero.loc
        matrix = matrix + columns.T @ noise
    return mean, matrix, at_zero.scale**2


def add_noise(mean: Tensor, matrix: Tensor, variance: Tensor) -> Affine:
    """The same with noise of its own, after all noise before."""
    return mean, torch.cat([matrix, torch.diag(variance.sqrt())], 1)


def pad(part: Affine, size: int) -> Affine:
    mean, matrix = part
    return mean, torch.cat([matrix, matrix.new_zeros(len(matrix), size - matrix.shape[1])], 1)
