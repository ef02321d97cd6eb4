"""Whether the guide is calibrated, as `ppl_vae.inference.calibration`."""

from collections.abc import Mapping
from typing import Any

import jax

from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.models.base import Model, as_jax, check_model
from ppl_vae.shared.checks import check_seed, next_seed
from ppl_vae.shared.evaluation import calibration as measures
from ppl_vae.shared.evaluation.calibration import Calibration


def calibration(
    model: Model,
    n: int = 1000,
    k: int = 99,
    *,
    data: Any = None,
    bins: int = 20,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Calibration:
    """Simulation-based calibration of the guide: ranks that are uniform if it is the posterior.

    Args:
        model: The pair.
        n: Number of simulations, at least 5 for each bin.
        k: Number of draws from the guide for each; k + 1 is a multiple of `bins`.
        data: For models with conditions: the arguments of `model.model`, of which n rows are chosen
            with repetition. Arguments that have the name of a site are replaced by the simulation.
        bins: Number of bins of the test.
        batch_size: Simulations that are looked at together; it bounds the memory.
        seed: Of the simulations and the draws.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: a latent of the guide is no site of the data plate, an observed site is not
            named as an argument of the model, or an argument is not such.
    """
    measures.check_calibration(n, k, bins)
    check_seed(seed)
    check_model(model)

    def simulate(given: list[Any]) -> Mapping[str, Any]:
        program = jax.jit(lambda *data: model.simulate(*data, key=jax.random.key(seed)))
        sites: Mapping[str, Any] = program(*map(as_jax, given))
        return sites

    args, sites = measures.simulation(model, data, n, simulate, seed)
    settings = {"batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, args, seed=next_seed(seed), **settings)
    return measures.calibration(pair, pair.latents_of(sites), k, bins, seed)
