"""Where the bound of a trained pair loses, as `ppl_vae.inference.gaps`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, lax

from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import Draws, draw
from ppl_vae.numpyro.inference.evaluation.local_posteriors import LOCAL, Gaussian, Parameters, fit
from ppl_vae.numpyro.inference.evaluation.log_likelihood import log_likelihood
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered, tempered
from ppl_vae.numpyro.inference.objectives.parts.log_weights import log_weights
from ppl_vae.numpyro.models.base import Model, check_model, parameters, with_parameters
from ppl_vae.shared.checks import as_numpy, check_seed, check_whole, sample_once
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.gaps import (
    INITIAL,
    Gaps,
    LocalFit,
    bounds,
    check_dimension,
    check_families,
    check_guide,
    highest,
)
from ppl_vae.shared.evaluation.likelihood import annealing_of

Family: TypeAlias = Literal["gaussian", "full", "flow"]


def gaps(
    model: Model,
    data: Any,
    families: Sequence[Family] = ("gaussian", "flow"),
    *,
    k: int = 5000,
    method: Literal["iw", "ais", "both"] = "iw",
    steps: int = 5000,
    lr: float = 0.01,
    draws: int = 10,
    patience: int = 10,
    batch_size: int = 100,
    particles: int = 50,
    chains: int | None = None,
    temperatures: int | None = None,
    leapfrog_steps: int | None = None,
    adaptation: int | None = None,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Gaps:
    """What the bound of a guide loses by its family, and what by being one function of all data.

    As `ppl_vae.inference.gaps`.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        families: What q* are.
        k: Draws of the guide and of each q* for its bound and for "iw", at least 2.
        method: "iw", "ais" or "both".
        steps: Steps of Adam for q*, at most.
        lr: Its learning rate at first.
        draws: Draws of each q* for a step.
        patience: Number of blocks without improvement after which it ends.
        batch_size: Data, and
        particles: draws for each of them, that are looked at together; they bound the memory.
        chains: Of "ais" and "both", as the next three: see `log_likelihood`.
        temperatures: Number of temperatures.
        leapfrog_steps: Steps of a move.
        adaptation: Number of temperatures of the run that finds the step sizes.
        seed: Of all draws.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: a latent site is discrete and not summed over by the model alone, has a mask,
            lies outside the data plate, or is not drawn by the guide; there is none; "flow" is to
            be of a single latent number; or an argument is not such, or not of this method.
    """
    names = check_families(families, method)
    check_whole("k", k, 2)
    check_whole("batch_size", batch_size, 1)
    check_seed(seed)
    check_whole("particles", particles, 1)
    check_whole("max_plate_nesting", max_plate_nesting, 1)
    effort = LocalFit(steps, lr, draws, patience)
    annealing = annealing_of(
        method,
        ("ais", "both"),
        chains=chains,
        temperatures=temperatures,
        leapfrog_steps=leapfrog_steps,
        adaptation=adaptation,
    )
    check_model(model)
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    weights = parameters(model)
    weight = next(iter(weights.values()))
    batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)

    @jax.jit
    def of_batch(weights: Any, data: Any, key: Array) -> dict[str, Array]:
        batch = _Batch(with_parameters(model, weights), data, particles, max_plate_nesting)
        return batch.log_weights(names, k, effort, key)

    found: dict[str, list[tuple[Estimate, Estimate]]] = {name: [] for name in ("guide", *names)}
    for number, start in enumerate(range(0, len(batches), batch_size)):
        data = [array[start : start + batch_size] for array in batches.arrays]
        key = jax.random.fold_in(jax.random.key(seed), number)
        with numpyro.validation_enabled(False):
            log_w = of_batch(weights, data, key)
        for name in found:
            found[name].append(bounds(as_numpy(log_w[name])))
    joined = {n: [Estimate.join(p) for p in zip(*parts, strict=True)] for n, parts in found.items()}
    estimates = [estimate for _, estimate in joined.values()] if method != "ais" else []
    if annealing is not None:
        sizes = {"batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
        settings = {**sizes, **asdict(annealing), "seed": seed}
        estimates.append(log_likelihood(model, tuple(arrays), method="ais", **settings))
    local = {name: joined[name][0] for name in names}
    return Gaps(highest(estimates), joined["guide"][0], local)


class _Batch:
    """The guide and the posteriors of some data."""

    def __init__(self, pair: Any, data: Any, particles: int, nesting: int) -> None:
        self.pair, self.data = pair, data
        self.particles, self.nesting = particles, nesting
        self.targets: dict[int, Tempered] = {}  # each costs two runs of the model

    def log_weights(
        self, names: Sequence[str], k: int, effort: LocalFit, key: Array
    ) -> dict[str, Array]:
        """log p(x, u) - log q(u) of k draws from the guide and from each q*, (k, N)."""
        first, for_guide, *keys = jax.random.split(key, 2 + len(names))
        loc, scale = self._moments(names, first)
        of_guide = lambda size, key: log_weights(self._draw(size, key))  # noqa: E731
        found = {"guide": self._chunks(k, of_guide, for_guide)}
        target = self._target(effort.draws)
        for name, key in zip(names, keys, strict=True):
            family, (for_start, for_fit, for_draws) = LOCAL[name], jax.random.split(key, 3)
            at = family.initial(loc, scale, key=for_start)
            at = fit(family, at, lambda u: _log_joint(target, u), effort, key=for_fit)
            if name == "gaussian":
                loc, scale = at["loc"], jnp.exp(at["log_scale"])
            found[name] = self._local(family, at, k, for_draws)
        return found

    def _local(self, family: Gaussian, at: Parameters, k: int, key: Array) -> Array:
        def weights(size: int, key: Array) -> Array:
            noise = jax.random.normal(key, (size, *at["loc"].shape), at["loc"].dtype)
            u = family.draw(at, noise)
            return _log_joint(self._target(size), u) - family.log_prob(at, u)

        return self._chunks(k, weights, key)

    def _chunks(self, k: int, weights: Callable[[int, Array], Array], key: Array) -> Array:
        whole, rest = divmod(k, self.particles)
        for_rest, for_whole = jax.random.split(key)
        parts = [weights(rest, for_rest)] if rest else []
        if whole:
            keys = jax.random.split(for_whole, whole)
            chunks = lax.map(lambda key: weights(self.particles, key), keys)
            parts.append(chunks.reshape(-1, chunks.shape[-1]))
        return jnp.concatenate(parts)

    def _moments(self, names: Sequence[str], key: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the guide's draws without constraints, (N, D)."""
        target = self._target(INITIAL)
        drawn = {s.name: s for s in self._draw(INITIAL, key).guide.values() if not s.observed}
        enumerated = {name: site.enum_dim is not None for name, site in drawn.items()}
        check_guide(enumerated, target.names)
        u = target.start(key, {name: site.value for name, site in drawn.items()})
        check_dimension(u.shape[-1], names)
        return u.mean(0), u.std(0)

    def _draw(self, size: int, key: Array) -> Draws:
        settings = {"k": size, "max_plate_nesting": self.nesting}
        return draw(self.pair.model, self.pair.guide, *self.data, key=key, **settings)

    def _target(self, chains: int) -> Tempered:
        if chains not in self.targets:
            settings: dict[str, Any] = {"chains": chains, "max_plate_nesting": self.nesting}
            self.targets[chains] = Tempered(self.pair.model, *self.data, **settings)
        return self.targets[chains]


def _log_joint(target: Tempered, u: Array) -> Array:
    return tempered(target.terms(u), 1.0)
