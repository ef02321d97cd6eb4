"""Whether the guide is calibrated, on data that the model simulates."""

from collections.abc import Mapping
from typing import Any

from ppl_vae.inference import random_state
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.models.base import Model, check_model
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

        z, x ~ p(z, x),    z_1, ..., z_k ~ q(z | x),    rank = #{i: z_i < z}             (1)

    of each latent unit, n times. If q(z | x) = p(z | x) for the data that the model simulates, z is
    one more draw like the others, and its rank uniform on 0, ..., k. A guide that is too narrow
    gives many ranks near 0 and k (a U), one that is too wide few; one whose mean is off, more on
    one side. Uniform ranks of all units do not show that the guide is right: dependence between
    units is not looked at, and a guide that is the prior passes.

    The test is Pearson's chi-square over `bins` bins; p-values of several units are corrected
    together by Holm's method (`adjusted`). Equal draws (discrete latents) have ranks that are
    chosen among theirs at random, which keeps them uniform.

    References:
        Talts, Betancourt, Simpson, Vehtari & Gelman, "Validating Bayesian inference algorithms with
        simulation-based calibration", 2018, arXiv:1804.06788, algorithm 1.
        Yao, Vehtari, Simpson & Gelman, "Yes, but did it work?: evaluating variational inference",
        ICML 2018, arXiv:1802.02538, section 4.
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        n: Number of simulations, at least 5 for each bin.
        k: Number of draws from the guide for each; k + 1 is a multiple of `bins`.
        data: For models with conditions: the arguments of `model.model`, of which n rows are chosen
            with repetition. Arguments that have the name of a site are replaced by the simulation.
        bins: Number of bins of the test.
        batch_size: Simulations that are looked at together; it bounds the memory.
        seed: Of the simulations and the draws; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: a latent of the guide is no site of the data plate, an observed site is not
            named as an argument of the model, or an argument is not such.
    """
    measures.check_calibration(n, k, bins)
    check_seed(seed)
    check_model(model)

    def simulate(given: list[Any]) -> Mapping[str, Any]:
        with random_state.isolated(seed, model.device):
            return model.simulate(*model.as_tensors(*given))

    args, sites = measures.simulation(model, data, n, simulate, seed)
    settings = {"batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, args, seed=next_seed(seed), **settings)
    return measures.calibration(pair, pair.latents_of(sites), k, bins, seed)
