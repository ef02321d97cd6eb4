"""Bidirectional Monte Carlo, as `ppl_vae.inference.bdmc`."""

from numbers import Integral
from typing import Any

import jax
import numpyro
from jax import Array
from numpyro import handlers

from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import Program
from ppl_vae.numpyro.inference.evaluation.ais import backwards, forwards, step_sizes, sums
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered
from ppl_vae.numpyro.models.base import Model, check_model, parameters, with_parameters
from ppl_vae.shared.checks import check_seed, check_whole, sample_once
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import BDMC, Estimate


def bdmc(
    model: Model,
    data: Any = 100,
    *,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog_steps: int = 10,
    adaptation: int = 100,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> BDMC:
    """Bounds log p(x) of simulated data from both sides, in nats.

    Args:
        model: The model; its guide is not used.
        data: How many data are simulated; or the arguments of `model.model`, an array or a tuple,
            of whose observed sites no more than the shapes matter (conditions stay what they are).
        chains: Number of chains of each datum, forwards and backwards.
        temperatures, leapfrog_steps, adaptation: See `ppl_vae.numpyro.inference.log_likelihood`.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the data and the chains.
        max_plate_nesting: Number of plate dimensions of the program.

    Raises:
        ValueError: as `log_likelihood(method="ais")`.
    """
    annealing = Annealing(chains, temperatures, leapfrog_steps, adaptation)
    check_whole("batch_size", batch_size, 1)
    check_seed(seed)
    check_model(model)
    weights = parameters(model)
    weight = next(iter(weights.values()))
    batches = Batches(_arguments(model, data, seed), next(iter(weight.devices())), weight.dtype)

    @jax.jit
    def of_batch(weights: Any, batch: Any, key: Array) -> Any:
        program = with_parameters(model, weights).model
        keys = jax.random.split(key, 7)
        latents, observed = _simulated(program, batch, keys[0])
        program = handlers.condition(handlers.uncondition(program), data=observed)
        program = handlers.seed(program, keys[1])  # uncondition asks for keys that are not used
        target = Tempered(program, *batch, chains=chains, max_plate_nesting=max_plate_nesting)
        sizes = step_sizes(target, target.start(keys[2]), annealing, key=keys[3])
        below = forwards(target, target.start(keys[4]), sizes, annealing, key=keys[5])
        above = backwards(target, target.start(keys[4], latents), sizes, annealing, key=keys[6])
        return sums(below), sums(above)

    bounds: tuple[list[Estimate], list[Estimate]] = [], []
    for number, start in enumerate(range(0, len(batches), batch_size)):
        batch = [array[start : start + batch_size] for array in batches.arrays]
        with numpyro.validation_enabled(False):
            found = of_batch(weights, batch, jax.random.fold_in(jax.random.key(seed), number))
        for part, log_sums in zip(bounds, found, strict=True):
            part.append(Estimate.of_weights(log_sums, chains))
    return BDMC.of_inverse(*map(Estimate.join, bounds))


def _arguments(model: Model, data: Any, seed: int) -> Any:
    """The arguments of the model, of which conditions and shapes matter."""
    if isinstance(data, Integral):
        check_whole("data", data, 1)
        return model.blank(int(data))
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    return arrays


def _simulated(model: Program, data: Any, key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """A draw of the latent sites and of the observed ones, by name."""
    program = handlers.seed(handlers.uncondition(model), key)
    latents: dict[str, Array] = {}
    observed: dict[str, Array] = {}
    for name, node in handlers.trace(program).get_trace(*data).items():
        if node["type"] == "sample":
            was_observed = node["infer"].get("was_observed", False)
            (observed if was_observed else latents)[name] = node["value"]
    return latents, observed
