"""What a trained pair's guide is worth, as `ppl_vae.inference.evaluation.diagnostics`."""

from typing import Any

from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.models.base import Model
from ppl_vae.shared.evaluation import elbo_surgery as surgery
from ppl_vae.shared.evaluation import inference_data, latent_units
from ppl_vae.shared.evaluation import pareto_k as psis
from ppl_vae.shared.evaluation.elbo_surgery import ElboSurgery
from ppl_vae.shared.evaluation.latent_units import ActiveUnits, PosteriorCollapse
from ppl_vae.shared.evaluation.pareto_k import ParetoK


def active_units(
    model: Model,
    data: Any,
    threshold: float = 0.01,
    *,
    k: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ActiveUnits:
    """Which latent units are active: their posterior mean differs between data.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        threshold: What A_u has to exceed.
        k: Number of draws for each datum, even.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide draws nothing, or a latent site lies outside the data plate or has a
            mask, or an argument is not such.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return latent_units.active_units(TrainedPair(model, data, **settings), threshold, k)


def posterior_collapse(
    model: Model,
    data: Any,
    *,
    epsilon: float = 0.01,
    delta: float = 0.01,
    k: int = 10,
    threshold: float = 0.01,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> PosteriorCollapse:
    """Which latent units have the same posterior for all data: their prior.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        epsilon: KL divergence, in nats, below which a unit tells nothing of a datum.
        delta: Share of the data of which a collapsed unit may tell something.
        k: Number of draws for each datum, even.
        threshold: Of active units.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: as `active_units`, or the model alone enumerates a site.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, **settings)
    return latent_units.posterior_collapse(pair, epsilon, delta, k, threshold)


def elbo_surgery(
    model: Model,
    data: Any,
    *,
    k: int = 1,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ElboSurgery:
    """The KL term of the bound as mutual information and divergence of the aggregate posterior.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the prior depends on the datum (a conditional model), which then has no
            aggregate posterior; or as `posterior_collapse`.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return surgery.elbo_surgery(TrainedPair(model, data, **settings), k)


def pareto_k(
    model: Model,
    data: Any,
    k: int = 1000,
    *,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ParetoK:
    """k-hat of each datum: how heavy the tail of its weights p(x, z) / q(z | x) is.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum, at least 100; all n k weights are kept.
        batch_size: Data that are looked at together; it bounds the memory of the rest.
        seed: Of the draws and the pixels.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide draws nothing, a site lies outside the data plate, or an argument is
            not such.
        ImportError: ArviZ is not installed.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return psis.pareto_k(TrainedPair(model, data, **settings), k)


def to_arviz(
    model: Model,
    data: Any,
    k: int = 100,
    *,
    resample: bool = False,
    predictive: bool = True,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Any:
    """ArviZ's InferenceData of draws from the guide, for its summaries and pictures.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum, with `resample` at least 100.
        resample: Whether draws are chosen by their weights.
        predictive: Whether observed sites are drawn, the two predictive groups.
        batch_size: Data that are looked at together.
        seed: Of all draws.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide draws nothing, a latent site lies outside the data plate or has a
            mask, the model alone enumerates a site, or an argument is not such.
        ImportError: ArviZ is not installed.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, **settings)
    return inference_data.to_arviz(pair, k, resample=resample, predictive=predictive, seed=seed)
