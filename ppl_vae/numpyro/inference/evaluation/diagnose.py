"""All that can be measured of a trained pair, as `ppl_vae.inference.diagnose`."""

from typing import Any

from ppl_vae.numpyro.inference.evaluation.calibration import calibration
from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.models.base import Model
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

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of weights for each datum, at least 100.
        simulations: Number of simulations for the ranks, at least 100; conditions are from `data`.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of all draws.
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
