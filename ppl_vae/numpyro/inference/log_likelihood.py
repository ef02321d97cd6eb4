"""The log-likelihood of a trained model, as `ppl_vae.inference.log_likelihood`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from jax.scipy.special import logsumexp

from ppl_vae.checks import check_whole, one_draw
from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import draw
from ppl_vae.numpyro.inference.weights import log_weights
from ppl_vae.numpyro.models.base import Model, parameters, with_parameters


def log_likelihood(
    model: Model,
    data: Any,
    k: int = 5000,
    *,
    batch_size: int = 100,
    particles: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Array:
    """Estimates log p(x) of each datum with the guide as proposal, shape (n,), in nats.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum.
        batch_size: Data, and
        particles: draws for each of them, that are looked at together; they bound the memory.
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the data are not the model's, or a latent variable lies outside the data plate.
    """
    for name, number in (("k", k), ("batch_size", batch_size), ("particles", particles)):
        check_whole(name, number, 1)
    arrays = one_draw(as_tuple(data), seed)
    model.check(*arrays)
    weights = parameters(model)
    weight = next(iter(weights.values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)

    def chunk_sum(weights: Any, batch: Any, key: Array, chunk: int) -> Array:
        pair = with_parameters(model, weights)
        nesting = max_plate_nesting
        draws = draw(pair.model, pair.guide, *batch, k=chunk, max_plate_nesting=nesting, key=key)
        return jnp.asarray(logsumexp(log_weights(draws), axis=0))

    compiled = jax.jit(chunk_sum, static_argnums=3)
    chunks = [min(particles, k - start) for start in range(0, k, particles)]
    estimates = []
    for number, start in enumerate(range(0, len(batches), batch_size)):
        batch = [array[start : start + batch_size] for array in batches.arrays]
        key = jax.random.fold_in(jax.random.key(seed), number)
        with numpyro.validation_enabled(False):
            sums = [
                compiled(weights, batch, jax.random.fold_in(key, i), chunk)
                for i, chunk in enumerate(chunks)
            ]
        estimates.append(logsumexp(jnp.stack(sums), axis=0) - jnp.log(k))
    return jnp.concatenate(estimates)
