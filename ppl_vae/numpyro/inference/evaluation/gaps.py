"""See `ppl_vae.inference.evaluation.gaps`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws
from ppl_vae.numpyro.inference.evaluation.local_posteriors import LOCAL, Gaussian, Parameters, fit
from ppl_vae.numpyro.inference.evaluation.tempered import Tempered, tempered
from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.inference.objectives.parts import log_weights as of_guide
from ppl_vae.numpyro.models.base import Model
from ppl_vae.shared.checks import as_numpy
from ppl_vae.shared.evaluation.local_fit import (
    INITIAL_DRAWS,
    LocalFit,
    check_dimension,
    check_guide,
)


def log_weights(
    pair: TrainedPair, names: Sequence[str], k: int, effort: LocalFit, particles: int
) -> Iterator[dict[str, np.ndarray]]:
    """See `ppl_vae.inference.evaluation.gaps.log_weights`."""

    def of_batch(model: Model, batch: Any, key: Array) -> dict[str, Array]:
        return _Batch(pair, model, batch, particles).log_weights(names, k, effort, key)

    for batch, key in pair.batches():
        log_w = pair.run("gaps", of_batch, batch, key)
        yield {name: as_numpy(value) for name, value in log_w.items()}


class _Batch:
    """The guide and the fitted posteriors of a batch of data."""

    def __init__(self, pair: TrainedPair, model: Model, data: Any, particles: int) -> None:
        self.pair, self.model, self.data, self.particles = pair, model, data, particles
        self.targets: dict[int, Tempered] = {}  # each costs two runs of the model

    def log_weights(
        self, names: Sequence[str], k: int, effort: LocalFit, key: Array
    ) -> dict[str, Array]:
        first, for_guide, *keys = jax.random.split(key, 2 + len(names))
        loc, scale = self._moments(names, first)

        def guide_weights(size: int, key: Array) -> Array:
            return of_guide.log_weights(self._draws(size, key))

        log_w = {"guide": self._chunks(k, guide_weights, for_guide)}
        target = self._target(effort.draws)
        for name, key in zip(names, keys, strict=True):
            family, (for_start, for_fit, for_draws) = LOCAL[name], jax.random.split(key, 3)
            at = family.initial(loc, scale, key=for_start)
            at = fit(family, at, lambda u: _log_joint(target, u), effort, key=for_fit)
            if name == "gaussian":
                loc, scale = at["loc"], jnp.exp(at["log_scale"])
            log_w[name] = self._local(family, at, k, for_draws)
        return log_w

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
        """Return mean and standard deviation of the guide's unconstrained draws, (N, D)."""
        target = self._target(INITIAL_DRAWS)
        draws = self._draws(INITIAL_DRAWS, key)
        sites = {site.name: site for site in draws.guide.values() if not site.observed}
        check_guide({name: s.enum_dim is not None for name, s in sites.items()}, target.names)
        u = target.start(key, {name: site.value for name, site in sites.items()})
        check_dimension(u.shape[-1], names)
        return u.mean(0), u.std(0)

    def _draws(self, size: int, key: Array) -> Draws:
        return self.pair.draws_of(self.model, self.data, size, key)

    def _target(self, chains: int) -> Tempered:
        if chains not in self.targets:
            settings: dict[str, Any] = {"chains": chains, "max_plate_nesting": self.pair.nesting}
            self.targets[chains] = Tempered(self.model.model, *self.data, **settings)
        return self.targets[chains]


def _log_joint(target: Tempered, u: Array) -> Array:
    return tempered(target.terms(u), 1.0)
