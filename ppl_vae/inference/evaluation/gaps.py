"""Log weights of the guide and of posteriors fitted to single data, for `gaps`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.evaluation.local_posteriors import LOCAL, Gaussian, Parameters, fit
from ppl_vae.inference.evaluation.tempered import Tempered, tempered
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.inference.objectives.parts import log_weights as of_guide
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
    """Return log p(x, u) - log q(u) of k draws from the guide and each q*, (k, N), per batch."""
    return (
        _Batch(pair, batch, particles).log_weights(names, k, effort) for batch in pair.batches()
    )


class _Batch:
    """The guide and the fitted posteriors of a batch of data."""

    def __init__(self, pair: TrainedPair, data: Any, particles: int) -> None:
        self.pair, self.data, self.particles = pair, data, particles
        self.targets: dict[int, Tempered] = {}  # each costs two runs of the model

    def log_weights(self, names: Sequence[str], k: int, effort: LocalFit) -> dict[str, np.ndarray]:
        loc, scale = self._moments(names)

        def guide_weights(size: int) -> Tensor:
            return of_guide.log_weights(self.pair.draws_of(self.data, size))

        log_w = {"guide": self._chunks(k, guide_weights)}
        target = self._target(effort.draws)
        for name in names:
            family = LOCAL[name]
            at = fit(family, family.initial(loc, scale), lambda u: _log_joint(target, u), effort)
            if name == "gaussian":
                loc, scale = at["loc"], at["log_scale"].exp()
            log_w[name] = self._local(family, at, k)
        return log_w

    def _local(self, family: Gaussian, at: Parameters, k: int) -> np.ndarray:
        def weights(size: int) -> Tensor:
            loc = at["loc"]
            noise = torch.randn(size, *loc.shape, dtype=loc.dtype, device=loc.device)
            u = family.draw(at, noise)
            return _log_joint(self._target(size), u) - family.log_prob(at, u)

        return self._chunks(k, weights)

    def _chunks(self, k: int, weights: Callable[[int], Tensor]) -> np.ndarray:
        sizes = [min(self.particles, k - start) for start in range(0, k, self.particles)]
        return np.concatenate([as_numpy(weights(size)) for size in sizes])

    def _moments(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the guide's unconstrained draws, (N, D)."""
        target = self._target(INITIAL_DRAWS)
        draws = self.pair.draws_of(self.data, INITIAL_DRAWS)
        sites = {site.name: site for site in draws.guide.values() if not site.observed}
        check_guide({name: s.enum_dim is not None for name, s in sites.items()}, target.names)
        u = target.start({name: site.value for name, site in sites.items()})
        check_dimension(u.shape[-1], names)
        return u.mean(0), u.std(0)

    def _target(self, chains: int) -> Tempered:
        if chains not in self.targets:
            settings: dict[str, Any] = {"chains": chains, "max_plate_nesting": self.pair.nesting}
            self.targets[chains] = Tempered(self.pair.model.model, *self.data, **settings)
        return self.targets[chains]


def _log_joint(target: Tempered, u: Tensor) -> Tensor:
    return tempered(target.terms(u), 1.0)
