"""All that can be measured of a trained pair, in one table."""

from typing import Any

from ppl_vae.inference.evaluation.calibration import calibration
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.models.base import Model
from ppl_vae.shared.evaluation import diagnosis
from ppl_vae.shared.evaluation.calibration import Calibration
from ppl_vae.shared.evaluation.diagnosis import Diagnosis


def diagnose(
    model: Model,
    data: Any,
    k: int = 500,
    *,
    simulations: int = 500,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Diagnosis:
    """Measures a trained pair; `print(diagnose(model, data))` is a table with verdicts.

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

    The limits are rules of thumb. A pair can have idle units and be the best there is; a bottom-up
    guide can have a negative KL term of one layer.

    Needs ArviZ: pip install 'ppl_vae[diagnostics]'.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of weights for each datum, at least 100.
        simulations: Number of simulations for the ranks, at least 100; conditions are from `data`.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of all draws; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: as `posterior_collapse`, `pareto_k` and `calibration`.
        ImportError: ArviZ is not installed.
    """
    diagnosis.check_diagnosis(k, simulations)
    settings: dict[str, int] = {"batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, seed=seed, **settings)

    def calibrate() -> Calibration:
        return calibration(model, simulations, data=data, seed=seed, **settings)

    return diagnosis.diagnose(pair, calibrate, k)
