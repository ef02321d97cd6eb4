"""The log-likelihood of a trained model, as `ppl_vae.inference.log_likelihood`."""

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, lax

from ppl_vae.checks import check_choice, check_whole, one_draw
from ppl_vae.measures.estimates import Estimate
from ppl_vae.numpyro.inference import ais
from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import draw
from ppl_vae.numpyro.inference.tempered import Tempered
from ppl_vae.numpyro.inference.weights import log_weights
from ppl_vae.numpyro.models.base import Model, check_model, parameters, with_parameters
from ppl_vae.settings.annealing import Annealing

Method: TypeAlias = Literal["iw", "ais"]


def log_likelihood(
    model: Model,
    data: Any,
    k: int = 5000,
    *,
    method: Method = "iw",
    batch_size: int = 100,
    particles: int = 50,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog_steps: int = 10,
    adaptation: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Estimate:
    """Estimates log p(x) of each datum, in nats, as `ppl_vae.inference.log_likelihood`.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Of "iw": number of draws for each datum.
        method: "iw", importance sampling, or "ais", annealed importance sampling.
        batch_size: Data, and
        particles: of "iw", draws for each of them, that are looked at together; they bound the
            memory.
        chains: Of "ais", as all that follows: number of chains for each datum.
        temperatures: Number of temperatures T.
        leapfrog_steps: Steps of a move; there is one move at each temperature.
        adaptation: Number of temperatures of the run that finds the step sizes.
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the data are not the model's, or a latent variable lies outside the data plate;
            of "ais", a latent variable is discrete and not enumerated, or masked, or there is none.
    """
    check_choice("method", method, get_args(Method))
    for name, number in (("k", k), ("batch_size", batch_size), ("particles", particles)):
        check_whole(name, number, 1)
    annealing = Annealing(chains, temperatures, leapfrog_steps, adaptation)
    check_model(model)
    arrays = one_draw(as_tuple(data), seed)
    model.check(*arrays)
    weights = parameters(model)
    weight = next(iter(weights.values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)
    nesting = max_plate_nesting

    @jax.jit
    def of_batch(weights: Any, batch: Any, key: Array) -> tuple[Array, Array]:
        pair = with_parameters(model, weights)
        if method == "iw":
            return _weighted(pair, batch, k, particles, nesting, key)
        return _annealed(pair, batch, annealing, nesting, key)

    parts = []
    for number, start in enumerate(range(0, len(batches), batch_size)):
        batch = [array[start : start + batch_size] for array in batches.arrays]
        key = jax.random.fold_in(jax.random.key(seed), number)
        with numpyro.validation_enabled(False):
            sums = of_batch(weights, batch, key)
        parts.append(Estimate.of_weights(sums, k if method == "iw" else chains))
    return Estimate.join(parts)


def _weighted(
    pair: Any, batch: Any, k: int, particles: int, nesting: int, key: Array
) -> tuple[Array, Array]:
    """Of a batch by `particles` draws at a time, of which only the sums are kept."""

    def chunk(number: Any, size: int) -> tuple[Array, Array]:
        settings = {"k": size, "max_plate_nesting": nesting}
        chunk_key = jax.random.fold_in(key, number)
        draws = draw(pair.model, pair.guide, *batch, key=chunk_key, **settings)
        return ais.sums(log_weights(draws))

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.logaddexp(a[0], b[0]), jnp.logaddexp(a[1], b[1])

    whole, rest = divmod(k, particles)
    shape = jax.eval_shape(lambda: chunk(0, 1)[0])
    nothing = jnp.full(shape.shape, -jnp.inf, shape.dtype)
    total: tuple[Array, Array] = lax.fori_loop(
        0, whole, lambda number, total: add(total, chunk(number, particles)), (nothing, nothing)
    )
    return add(total, chunk(whole, rest)) if rest else total


def _annealed(
    pair: Any, batch: Any, annealing: Annealing, nesting: int, key: Array
) -> tuple[Array, Array]:
    """Of a batch by chains from the prior, all side by side."""
    keys = jax.random.split(key, 4)
    chains = annealing.chains
    settings: dict[str, Any] = {"max_plate_nesting": nesting, "otherwise": "use method='iw'"}
    target = Tempered(pair.model, *batch, chains=chains, **settings)
    sizes = ais.step_sizes(target, target.start(keys[0]), annealing, key=keys[1])
    return ais.sums(ais.forwards(target, target.start(keys[2]), sizes, annealing, key=keys[3]))
