"""The log-likelihood of a trained model, as `ppl_vae.inference.log_likelihood`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, lax

from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import draw
from ppl_vae.numpyro.inference.evaluation import ais
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered
from ppl_vae.numpyro.inference.objectives.parts.log_weights import log_weights
from ppl_vae.numpyro.models.base import Model, check_model, parameters, with_parameters
from ppl_vae.shared.checks import check_whole, sample_once
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.likelihood import Method, Weighing, effort_of


def log_likelihood(
    model: Model,
    data: Any,
    k: int | None = None,
    *,
    method: Method = "iw",
    batch_size: int = 100,
    particles: int | None = None,
    chains: int | None = None,
    temperatures: int | None = None,
    leapfrog_steps: int | None = None,
    adaptation: int | None = None,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Estimate:
    """Estimates log p(x) of each datum, in nats, as `ppl_vae.inference.log_likelihood`.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Of "iw": number of draws for each datum, by default 5000.
        method: "iw", importance sampling, or "ais", annealed importance sampling.
        batch_size: Data, and
        particles: of "iw", draws for each of them (50), that are looked at together; they bound
            the memory.
        chains: Of "ais", as all that follows: number of chains for each datum (16).
        temperatures: Number of temperatures T (1000).
        leapfrog_steps: Steps of a move (10); there is one move at each temperature.
        adaptation: Number of temperatures of the run that finds the step sizes (100).
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the data are not the model's, an argument is not such or is one of the other
            method, or a latent variable lies outside the data plate;
            of "ais", a latent variable is discrete and not enumerated, or masked, or there is none.
    """
    effort = effort_of(
        method,
        k=k,
        particles=particles,
        chains=chains,
        temperatures=temperatures,
        leapfrog_steps=leapfrog_steps,
        adaptation=adaptation,
    )
    check_whole("batch_size", batch_size, 1)
    check_model(model)
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    weights = parameters(model)
    weight = next(iter(weights.values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)
    nesting = max_plate_nesting

    @jax.jit
    def of_batch(weights: Any, batch: Any, key: Array) -> tuple[Array, Array]:
        pair = with_parameters(model, weights)
        if isinstance(effort, Weighing):
            return _weighted(pair, batch, effort, nesting, key)
        return _annealed(pair, batch, effort, nesting, key)

    weights_of_datum = effort.k if isinstance(effort, Weighing) else effort.chains
    parts = []
    for number, start in enumerate(range(0, len(batches), batch_size)):
        batch = [array[start : start + batch_size] for array in batches.arrays]
        key = jax.random.fold_in(jax.random.key(seed), number)
        with numpyro.validation_enabled(False):
            sums = of_batch(weights, batch, key)
        parts.append(Estimate.of_weights(sums, weights_of_datum))
    return Estimate.join(parts)


def _weighted(
    pair: Any, batch: Any, effort: Weighing, nesting: int, key: Array
) -> tuple[Array, Array]:
    """Of a batch by some draws at a time, of which only the sums are kept."""
    k, particles = effort.k, effort.particles

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
