"""See `ppl_vae.inference.evaluation.bdmc`."""

from typing import Any

import jax
from jax import Array
from numpyro import handlers

from ppl_vae.numpyro.inference.draws import Program
from ppl_vae.numpyro.inference.evaluation.ais import backwards, forwards, step_sizes, sums
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered
from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.models.base import Model, check_model
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import BDMC, Estimate
from ppl_vae.shared.evaluation.pair import blank_or_given


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
    """See `ppl_vae.inference.bdmc`; it is always compiled."""
    annealing = Annealing(chains, temperatures, leapfrog_steps, adaptation)
    check_model(model)
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, blank_or_given(model, data), **settings)

    def log_sums(model: Model, batch: Any, key: Array) -> Any:
        program = model.model
        keys = jax.random.split(key, 7)
        latents, observed = _simulate(program, batch, keys[0])
        program = handlers.condition(handlers.uncondition(program), data=observed)
        program = handlers.seed(program, keys[1])  # uncondition asks for keys that are not used
        target = Tempered(program, *batch, chains=chains, max_plate_nesting=max_plate_nesting)
        sizes = step_sizes(target, target.start(keys[2]), annealing, key=keys[3])
        below = forwards(target, target.start(keys[4]), sizes, annealing, key=keys[5])
        above = backwards(target, target.start(keys[4], latents), sizes, annealing, key=keys[6])
        return sums(below), sums(above)

    bounds: tuple[list[Estimate], list[Estimate]] = [], []
    with pair.evaluating():
        for batch, key in pair.batches():
            both = pair.run("log_sums", log_sums, batch, key)
            for estimates, weights in zip(bounds, both, strict=True):
                estimates.append(Estimate.of_weights(weights, chains))
    return BDMC.of_inverse(*map(Estimate.join, bounds))


def _simulate(model: Program, data: Any, key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return a draw of the latent sites and of the observed sites, by name."""
    program = handlers.seed(handlers.uncondition(model), key)
    latents: dict[str, Array] = {}
    observed: dict[str, Array] = {}
    for name, node in handlers.trace(program).get_trace(*data).items():
        if node["type"] == "sample":
            was_observed = node["infer"].get("was_observed", False)
            (observed if was_observed else latents)[name] = node["value"]
    return latents, observed
