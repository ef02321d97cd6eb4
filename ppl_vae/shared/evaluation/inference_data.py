"""Draws and log densities as ArviZ's InferenceData."""

from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_flag, check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.optional_packages import arviz
from ppl_vae.shared.evaluation.pair import Array, Arrays, JointDraws
from ppl_vae.shared.evaluation.pareto_k import MIN_DRAWS, smoothed


def to_arviz(
    model: AnyModel,
    data: Any,
    k: int = 100,
    *,
    resample: bool = False,
    predictive: bool = True,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Any:
    """Return draws from the guide as ArviZ's InferenceData, for its summaries and plots.

    | group | variables | dimensions |
    |---|---|---|
    | posterior | each latent site | chain (1), draw (k), data (n), s_unit |
    | log_likelihood | log p(x, ...) of each observed site | chain, draw, data |
    | sample_stats | lp = log p(x, z), log_weight = lp - log q(z given x) | chain, draw, data |
    | prior | each latent site, drawn from the model | as posterior |
    | posterior_predictive, prior_predictive | each observed site, replicated | the same |
    | observed_data | each observed site | data, s_unit |

    where s is the name of the site; a site with several dimensions has "s_unit_0", "s_unit_1", ...

    The group posterior holds draws from the guide q(z | x), or with `resample` draws resampled from
    them by Pareto smoothed weights with replacement, which approximate p(z | x) where `pareto_k` is
    below 0.7. The attribute `draws_of` says which. Each datum has its own latents, so `az.loo` is a
    harmonic mean estimate of log p(x) of each datum, with k-hat mostly too large: use
    `log_likelihood` instead.

    Memory: 2 n k numbers for each latent unit, and 2 n k for each entry of x if `predictive`:
    100 draws for 1000 images of 784 pixels take 0.6 GB in single precision.

    Needs ArviZ: pip install 'ppl_vae[diagnostics]'.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        k: Number of draws for each datum, with `resample` at least 100.
        resample: Whether to resample the draws by their weights.
        predictive: Whether to draw the observed sites, for the two predictive groups.
        batch_size: Batch size; limits peak memory, apart from the result.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide has no latent site, a latent site lies outside the data plate or has a
            mask, the model alone enumerates a site, or an argument is invalid.
        ImportError: ArviZ is not installed.
    """
    check_flag("resample", resample)
    check_flag("predictive", predictive)
    check_whole("k", k, MIN_DRAWS if resample else 1)
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = pair_of(model, data, **settings)
    az = arviz()
    batches = pair.joint(k, lambda draws: draws, replicate=predictive)
    observed = _joined([batch.observed for batch in batches], 0)
    groups = {
        "posterior": _joined([batch.values for batch in batches], 1),
        "posterior_predictive": _joined([batch.replicates for batch in batches], 1),
        "log_likelihood": _joined([batch.log_likelihood for batch in batches], 1),
        "sample_stats": _joined([_statistics(batch) for batch in batches], 1),
    }
    draws_of = "q(z | x)"
    if resample:
        draws_of = "p(z | x), by importance resampling of draws from q(z | x)"
        chosen = _resampled(groups["sample_stats"]["log_weight"], seed)
        groups = {group: _taken(arrays, chosen) for group, arrays in groups.items()}
    prior = pair.prior(k)
    groups["prior"] = {name: prior[name] for name in groups["posterior"]}
    if predictive:
        groups["prior_predictive"] = {name: prior[name] for name in observed}
    datasets = {
        group: _dataset(az, {name: value[None] for name, value in arrays.items()}, 2)
        for group, arrays in groups.items()
        if arrays
    }
    datasets["posterior"].attrs["draws_of"] = draws_of
    return az.InferenceData(**datasets, observed_data=_dataset(az, observed, 0))


def _joined(batches: list[Arrays], axis: int) -> Arrays:
    return {
        name: np.concatenate([batch[name] for batch in batches], axis=axis) for name in batches[0]
    }


def _statistics(draws: JointDraws) -> Arrays:
    """Return log p(x, z) and log p(x, z) - log q(z | x) of each draw and datum, (k, N)."""
    lp = sum((*draws.log_p.values(), *draws.log_likelihood.values()), start=np.zeros(()))
    return {"lp": lp, "log_weight": lp - sum(draws.log_q.values(), start=np.zeros(()))}


def _resampled(log_w: Array, seed: int) -> Array:
    """Return indices of k draws of each datum, resampled by their smoothed weights, (k, n)."""
    rng = np.random.default_rng(seed)
    cumulative = np.exp(smoothed(log_w)[0]).cumsum(0)
    at = rng.random(log_w.shape) * cumulative[-1]
    columns = [np.searchsorted(cumulative[:, i], at[:, i]) for i in range(log_w.shape[1])]
    return np.stack(columns, axis=1)


def _taken(arrays: Arrays, chosen: Array) -> Arrays:
    columns = np.arange(chosen.shape[1])
    return {name: value[chosen, columns] for name, value in arrays.items()}


def _dataset(az: Any, arrays: Arrays, leading: int) -> Any:
    """Return a data set with dimensions (chain, draw,) "data", and "s_unit", ... of site s."""
    dims: dict[str, list[str]] = {}
    coords: dict[str, Array] = {}
    for name, value in arrays.items():
        units = value.shape[leading + 1 :]
        several = len(units) > 1
        names = [f"{name}_unit_{i}" if several else f"{name}_unit" for i in range(len(units))]
        dims[name] = ["data", *names]
        sizes = dict(zip(dims[name], value.shape[leading:], strict=True))
        coords |= {dim: np.arange(size) for dim, size in sizes.items()}
    default = ["chain", "draw"][:leading]
    return az.dict_to_dataset(arrays, dims=dims, coords=coords, default_dims=default)
