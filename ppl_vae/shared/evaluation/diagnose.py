"""All measurements of a trained pair in one table."""

from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.calibration import calibration
from ppl_vae.shared.evaluation.diagnosis import Diagnosis
from ppl_vae.shared.evaluation.elbo_surgery import ConditionalPrior, ElboSurgery
from ppl_vae.shared.evaluation.estimates import bounds
from ppl_vae.shared.evaluation.optional_packages import arviz
from ppl_vae.shared.evaluation.pair import Pair
from ppl_vae.shared.evaluation.pareto_k import MIN_DRAWS, ParetoK, smoothed
from ppl_vae.shared.evaluation.posterior_collapse import PosteriorCollapse

MIN_SIMULATIONS = 100
"""Five for each of the 20 bins of `calibration`."""


def diagnose(
    model: AnyModel,
    data: Any,
    k: int = 500,
    *,
    simulations: int = 500,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Diagnosis:
    """Measure a trained pair; `print(diagnose(model, data))` is a table with verdicts.

    | line | good if | source |
    |---|---|---|
    | ELBO | finite for each datum, and the Monte Carlo error of its mean below 0.1 | k draws each |
    | log p(x) | its Monte Carlo error is below 0.1 nat, in the median of the data | k weights |
    | log p(x) - ELBO | at most 1 nat, or a tenth of the KL term; not known within 2 errors | both |
    | KL of a site | at least 0.1 nat | `posterior_collapse` |
    | active units | at least half of all | `active_units` |
    | collapsed units | at most half of all | `posterior_collapse`, where it is known |
    | mutual information | at least half of the KL term, or above 0.9 log n | `elbo_surgery` |
    | KL(q(z) from p(z)) | at most 1 nat, or a tenth of the KL term; not known near log n | same |
    | k-hat | above 0.7 for at most a tenth of the data | `pareto_k` |
    | ranks of a site | no unit differs from uniform at the level 0.01, Holm | `calibration` |

    The limits are rules of thumb. The best possible pair can have idle units; a bottom-up guide can
    have a negative KL term of one layer.

    Needs ArviZ: pip install 'ppl_vae[diagnostics]'.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once. At least 2 data.
        k: Number of weights for each datum, at least 100.
        simulations: Number of simulations for the ranks, at least 100; conditions are from `data`.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: as `posterior_collapse`, `pareto_k` and `calibration`.
        ImportError: ArviZ is not installed.
    """
    check_whole("k", k, MIN_DRAWS)
    check_whole("simulations", simulations, MIN_SIMULATIONS)
    arviz()
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "max_plate_nesting": max_plate_nesting,
    }
    pair = pair_of(model, data, **settings)
    log_w = pair.log_weights(k).astype(np.float64)
    pareto_k = ParetoK(smoothed(log_w)[1], k)
    elbo, log_likelihood = bounds(log_w)
    return Diagnosis(
        elbo=elbo,
        log_likelihood=log_likelihood,
        surgery=_surgery(pair),
        collapse=PosteriorCollapse.of_pair(pair, 0.01, 0.01, 10, 0.01),
        pareto_k=pareto_k,
        calibration=calibration(model, simulations, data=data, **settings),
    )


def _surgery(pair: Pair) -> ElboSurgery | None:
    try:
        return ElboSurgery.of_pair(pair, 1)
    except ConditionalPrior:
        return None
