"""The log-likelihood of a trained model, by importance sampling."""

import math
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.checks import check_whole, one_draw
from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.draws import draw
from ppl_vae.inference.weights import log_weights
from ppl_vae.models.base import Model, evaluating


def log_likelihood(
    model: Model,
    data: Any,
    k: int = 5000,
    *,
    batch_size: int = 100,
    particles: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Tensor:
    """Estimates log p(x) of each datum with the guide as proposal, shape (n,), in nats.

        log 1/k sum_i p(x, z_i) / q(z_i | x),   z_i ~ q(z | x)

    is on average below log p(x) and comes nearer with k. Sites that model or guide enumerate are
    summed over exactly. The mean over the data is `.mean()`, and its standard error
    `.std() / n ** 0.5`. With a pair whose guide is its prior (`cvae.gsnn()`) this is the simple
    Monte Carlo estimate.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, equation 8.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum.
        batch_size: Data, and
        particles: draws for each of them, that are looked at together; they bound the memory.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the data are not the model's, or a latent variable lies outside the data plate.
    """
    for name, number in (("k", k), ("batch_size", batch_size), ("particles", particles)):
        check_whole(name, number, 1)
    arrays = one_draw(as_tuple(data), seed)
    model.check(*arrays)
    batches = Batches(arrays, model.device, next(model.parameters()).dtype)
    chunks = [min(particles, k - start) for start in range(0, k, particles)]
    settings = {"max_plate_nesting": max_plate_nesting}
    estimates = []
    with evaluating(model), random_state.isolated(seed, model.device), torch.no_grad():
        for index in torch.arange(len(batches)).split(batch_size):
            sums = []
            for chunk in chunks:
                with pyro.validation_enabled(False):
                    draws = draw(model.model, model.guide, *batches[index], k=chunk, **settings)
                sums.append(log_weights(draws).logsumexp(0))
            estimates.append(torch.stack(sums).logsumexp(0) - math.log(k))
    return torch.cat(estimates)
