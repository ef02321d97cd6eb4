"""Draws and log densities as ArviZ's InferenceData."""

from typing import Any

import numpy as np

from ppl_vae.shared.checks import check_flag, check_whole
from ppl_vae.shared.evaluation.optional_packages import arviz
from ppl_vae.shared.evaluation.pair import Array, Arrays, JointDraws, Pair
from ppl_vae.shared.evaluation.pareto_k import FEWEST, smoothed


def to_arviz(pair: Pair, k: int, *, resample: bool, predictive: bool, seed: int) -> Any:
    """See `ppl_vae.inference.evaluation.diagnostics.to_arviz`."""
    check_flag("resample", resample)
    check_flag("predictive", predictive)
    check_whole("k", k, FEWEST if resample else 1)
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
    """log p(x, z) and log p(x, z) - log q(z | x) of each draw and datum, (k, N)."""
    lp = sum((*draws.log_p.values(), *draws.log_likelihood.values()), start=np.zeros(()))
    return {"lp": lp, "log_weight": lp - sum(draws.log_q.values(), start=np.zeros(()))}


def _resampled(log_w: Array, seed: int) -> Array:
    """The numbers of k draws of each datum by their smoothed weights, with repetition, (k, n)."""
    rng = np.random.default_rng(seed)
    cumulative = np.exp(smoothed(log_w)[0]).cumsum(0)
    at = rng.random(log_w.shape) * cumulative[-1]
    columns = [np.searchsorted(cumulative[:, i], at[:, i]) for i in range(log_w.shape[1])]
    return np.stack(columns, axis=1)


def _taken(arrays: Arrays, chosen: Array) -> Arrays:
    columns = np.arange(chosen.shape[1])
    return {name: value[chosen, columns] for name, value in arrays.items()}


def _dataset(az: Any, arrays: Arrays, leading: int) -> Any:
    """Dimensions (chain, draw,) "data", and of site s the units "s_unit", or "s_unit_0", ..."""
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
