"""Where the bound of a trained pair loses: approximation gap and amortisation gap."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.draws import Draws, draw
from ppl_vae.inference.evaluation.local_posteriors import LOCAL, Gaussian, Parameters, fit
from ppl_vae.inference.evaluation.log_likelihood import log_likelihood
from ppl_vae.inference.evaluation.tempered import Tempered, tempered
from ppl_vae.inference.objectives.parts.log_weights import log_weights
from ppl_vae.models.base import Model, check_model, evaluating
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

        log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]),    q* = argmax over the family L[q]
                          approximation gap    amortisation gap

    L[q] = E_q[log p(x, z) - log q(z | x)] for each datum, in nats. q* has parameters of its own for
    each datum and is found by Adam, from the moments of the guide's draws. It is a distribution of
    all latents of a datum together, without constraints (`biject_to`), of a family:

    - "gaussian": independent entries, N(m, diag s^2);
    - "full": N(m, S) with any covariance;
    - "flow": "gaussian" behind coupling layers (real NVP).

    The last two begin at the q* of "gaussian", if it is asked for. The gap of a guide is parted by
    the family that it has itself; the amortisation gap of a family below that can be negative.

    log p(x) is the highest of these estimates for each datum, of which each is too low on average:
    method "iw", importance sampling by the guide and by each q*; "ais", annealed importance
    sampling; "both". Each is compared less three of its standard errors, because the highest
    of several estimates is else often too high. One of a single chain has no
    error and is taken last.

    References:
        Cremer, Li & Duvenaud, "Inference suboptimality in variational autoencoders", ICML 2018,
        arXiv:1801.03558, sections 3 and 4, appendix.

    Differs from the paper:
        Importance sampling also by q*, and standard errors in the comparison. Gradients by the path
        of the draws alone (Roeder et al. 2017). The learning rate is halved after a block of 100
        steps that does not improve the mean of a batch by 1e-4 nats, and the end is after
        `patience` such blocks (the paper: one learning rate, and 10 blocks in a row, for each
        datum). The flow has no auxiliary variables.

    Args:
        model: The pair, put into evaluation mode meanwhile; its parameters stay what they are.
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
        seed: Of all draws; the caller's random state is left as it was.
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
    batches = Batches(arrays, model.device, next(model.parameters()).dtype)
    found: dict[str, list[tuple[Estimate, Estimate]]] = {name: [] for name in ("guide", *names)}
    quiet = pyro.validation_enabled(False)
    with evaluating(model), random_state.isolated(seed, model.device), torch.no_grad(), quiet:
        for index in torch.arange(len(batches)).split(batch_size):
            batch = _Batch(model, batches[index], particles, max_plate_nesting)
            for name, log_w in batch.log_weights(names, k, effort).items():
                found[name].append(bounds(log_w))
    joined = {n: [Estimate.join(p) for p in zip(*parts, strict=True)] for n, parts in found.items()}
    estimates = [estimate for _, estimate in joined.values()] if method != "ais" else []
    if annealing is not None:
        sizes = {"batch_size": batch_size, "max_plate_nesting": max_plate_nesting}
        settings: dict[str, Any] = {**sizes, **asdict(annealing), "seed": seed}
        estimates.append(log_likelihood(model, tuple(arrays), method="ais", **settings))
    local = {name: joined[name][0] for name in names}
    return Gaps(highest(estimates), joined["guide"][0], local)


class _Batch:
    """The guide and the posteriors of some data."""

    def __init__(self, model: Model, data: Any, particles: int, nesting: int) -> None:
        self.pair, self.data = model, data
        self.particles, self.nesting = particles, nesting
        self.targets: dict[int, Tempered] = {}  # each costs two runs of the model

    def log_weights(self, names: Sequence[str], k: int, effort: LocalFit) -> dict[str, np.ndarray]:
        """log p(x, u) - log q(u) of k draws from the guide and from each q*, (k, N)."""
        loc, scale = self._moments(names)
        found = {"guide": self._chunks(k, lambda size: log_weights(self._draw(size)))}
        target = self._target(effort.draws)
        for name in names:
            family = LOCAL[name]
            at = fit(family, family.initial(loc, scale), lambda u: _log_joint(target, u), effort)
            if name == "gaussian":
                loc, scale = at["loc"], at["log_scale"].exp()
            found[name] = self._local(family, at, k)
        return found

    def _local(self, family: Gaussian, at: Parameters, k: int) -> np.ndarray:
        def weights(size: int) -> Tensor:
            loc = at["loc"]
            noise = torch.randn(size, *loc.shape, dtype=loc.dtype, device=loc.device)
            u = family.draw(at, noise)
            return _log_joint(self._target(size), u) - family.log_prob(at, u)

        return self._chunks(k, weights)

    def _chunks(self, k: int, weights: Any) -> np.ndarray:
        sizes = [min(self.particles, k - start) for start in range(0, k, self.particles)]
        return np.concatenate([as_numpy(weights(size)) for size in sizes])

    def _moments(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the guide's draws without constraints, (N, D)."""
        target = self._target(INITIAL)
        drawn = {s.name: s for s in self._draw(INITIAL).guide.values() if not s.observed}
        enumerated = {name: site.enum_dim is not None for name, site in drawn.items()}
        check_guide(enumerated, target.names)
        u = target.start({name: site.value for name, site in drawn.items()})
        check_dimension(u.shape[-1], names)
        return u.mean(0), u.std(0)

    def _draw(self, size: int) -> Draws:
        nesting = self.nesting
        return draw(self.pair.model, self.pair.guide, *self.data, k=size, max_plate_nesting=nesting)

    def _target(self, chains: int) -> Tempered:
        if chains not in self.targets:
            settings: dict[str, Any] = {"chains": chains, "max_plate_nesting": self.nesting}
            self.targets[chains] = Tempered(self.pair.model, *self.data, **settings)
        return self.targets[chains]


def _log_joint(target: Tempered, u: Tensor) -> Tensor:
    return tempered(target.terms(u), 1.0)
