"""See `ppl_vae.inference.evaluation.log_likelihood`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.evaluation import ais
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered
from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.inference.objectives.parts.log_weights import log_weights
from ppl_vae.numpyro.models.base import Model
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
    """See `ppl_vae.inference.log_likelihood`; it is always compiled."""
    effort = effort_of(
        method,
        k=k,
        particles=particles,
        chains=chains,
        temperatures=temperatures,
        leapfrog_steps=leapfrog_steps,
        adaptation=adaptation,
    )
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, **settings)

    def sums(model: Model, batch: Any, key: Array) -> tuple[Array, Array]:
        if isinstance(effort, Weighing):
            return _weighted(pair, model, batch, effort, key)
        return _annealed(pair, model, batch, effort, key)

    n_weights = effort.k if isinstance(effort, Weighing) else effort.chains
    with pair.evaluating():
        parts = [pair.run("sums", sums, *batch_and_key) for batch_and_key in pair.batches()]
    return Estimate.join([Estimate.of_weights(log_sums, n_weights) for log_sums in parts])


def _weighted(
    pair: TrainedPair, model: Model, batch: Any, effort: Weighing, key: Array
) -> tuple[Array, Array]:
    """Return the log sums of the weights and of their squares, by importance sampling."""
    k, particles = effort.k, effort.particles

    def chunk(number: Any, size: int) -> tuple[Array, Array]:
        draws = pair.draws_of(model, batch, size, jax.random.fold_in(key, number))
        return ais.sums(log_weights(draws))

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.logaddexp(a[0], b[0]), jnp.logaddexp(a[1], b[1])

    whole, rest = divmod(k, particles)
    shape = jax.eval_shape(lambda: chunk(0, 1)[0])
    zero = jnp.full(shape.shape, -jnp.inf, shape.dtype)
    total: tuple[Array, Array] = lax.fori_loop(
        0, whole, lambda number, total: add(total, chunk(number, particles)), (zero, zero)
    )
    return add(total, chunk(whole, rest)) if rest else total


def _annealed(
    pair: TrainedPair, model: Model, batch: Any, annealing: Annealing, key: Array
) -> tuple[Array, Array]:
    """Return the log sums of the weights and of their squares, by annealed importance sampling."""
    keys = jax.random.split(key, 4)
    settings: dict[str, Any] = {
        "chains": annealing.chains,
        "max_plate_nesting": pair.nesting,
        "alternative": "use method='iw'",
    }
    target = Tempered(model.model, *batch, **settings)
    sizes = ais.step_sizes(target, target.start(keys[0]), annealing, key=keys[1])
    return ais.sums(ais.forwards(target, target.start(keys[2]), sizes, annealing, key=keys[3]))
