"""A trained pair as measurements see it: draws and log densities as numpy arrays."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Categorical, Independent
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.draws import Draws, Program, Site, draw
from ppl_vae.inference.objectives.parts.log_weights import latents, log_weights
from ppl_vae.models.base import Model, check_model, evaluating
from ppl_vae.shared.checks import as_numpy, check_whole, sample_once
from ppl_vae.shared.evaluation.pair import Array, Arrays, Found, Pair
from ppl_vae.shared.evaluation.sites import (
    check_drawn,
    check_latents,
    check_simulated,
    check_some,
    closed_given_draws,
)


class TrainedPair(Pair):
    """A pair and its data.

    Args:
        model: The pair, put into evaluation mode whenever it is run.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        batch_size: Data that are looked at together.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.
    """

    def __init__(
        self,
        model: Model,
        data: Any,
        *,
        batch_size: int = 100,
        seed: int = 0,
        max_plate_nesting: int = 1,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_whole("max_plate_nesting", max_plate_nesting, 1)
        check_model(model)
        arrays = sample_once(as_tuple(data), seed)
        model.check(*arrays)
        self.model, self.seed, self.nesting = model, seed, max_plate_nesting
        self.batches = Batches(arrays, model.device, next(model.parameters()).dtype)
        self.n = len(self.batches)
        self.batch_size = min(batch_size, self.n)

    def latents_of(self, sites: Mapping[str, Any]) -> Arrays:
        with self._looking():
            draws = self._draw(self.model.model, slice(0, 1), 1)
        check_simulated(self.model, [s.name for s in draws.model.values() if s.observed])
        return {
            name: as_numpy(self._by_datum(sites[name], len(site.fn.event_shape))[0])
            for name, site in _drawn(draws).items()
        }

    @contextmanager
    def _looking(self) -> Iterator[None]:
        isolated = random_state.isolated(self.seed, self.model.device)
        with evaluating(self.model), isolated, torch.no_grad(), pyro.validation_enabled(False):
            yield

    def _guide(self, rows: slice, k: int, number: int) -> Found:
        # No model: it would decode each draw, for nothing.
        return self._of_guide(_drawn(self._draw(_nothing, rows, k)))

    def _joint(self, rows: slice, k: int, number: int, replicate: bool) -> Found:
        draws = self._draw(self.model.model, rows, k)
        sites = _drawn(draws)
        check_drawn(draws.model, sites)
        observed: dict[str, Any] = {n: s for n, s in draws.model.items() if s.observed}
        found: Found = {**self._of_guide(sites), "kl": {}, "log_ratio": {}}
        for name, site in sites.items():
            kind, value = self._divergence(site, draws)
            found[kind][name] = value
        found["log_q"] = {name: site.log_prob for name, site in sites.items()}
        found["log_p"] = {name: draws.model[name].log_prob for name in sites}
        found["log_likelihood"] = {name: site.log_prob for name, site in observed.items()}
        found["observed"] = {
            n: self._by_datum(s.value, s.fn.event_dim) for n, s in observed.items()
        }
        found["replicates"] = {
            n: self._by_datum(s.fn.sample(), s.fn.event_dim)
            for n, s in observed.items()
            if replicate
        }
        return found

    def _log_weights(self, rows: slice, k: int, number: int) -> Found:
        draws = self._draw(self.model.model, rows, k)
        log_w = log_weights(draws)
        check_some(latents(draws))
        return {"log_w": {"all": log_w}}

    def _prior(self, rows: slice, k: int, number: int) -> Found:
        program: Program = poutine.uncondition(self.model.model)
        if k > 1:
            program = pyro.plate("particles", k, dim=-1 - self.nesting)(program)
        trace = prune_subsample_sites(poutine.trace(program).get_trace(*self._data(rows)))
        nodes: Any = {name: trace.nodes[name] for name in trace.stochastic_nodes}
        values = {n: self._by_datum(s["value"], s["fn"].event_dim) for n, s in nodes.items()}
        return {"prior": values}

    def _log_guide(self, rows: slice, values: Arrays) -> Any:
        n = rows.stop - rows.start
        with _Given({name: self._among(value, n) for name, value in values.items()}):
            sites = _drawn(self._draw(_nothing, rows, len(next(iter(values.values())))))
        return sum(site.log_prob for site in sites.values())

    def _log_prior(self, rows: slice, values: Arrays, shift: int) -> Any:
        with _Given({name: self._instead(value) for name, value in values.items()}):
            draws = self._draw(self.model.model, rows, 1, shift)
        return sum(draws.model[name].log_prob for name in values)

    def _data(self, rows: slice, shift: int = 0) -> tuple[Tensor, ...]:
        return self.batches[(torch.arange(rows.start, rows.stop) + shift) % self.n]

    def _draw(self, model: Program, rows: slice, k: int, shift: int = 0) -> Draws:
        guide = _Drawn()(self.model.guide)
        return draw(model, guide, *self._data(rows, shift), k=k, max_plate_nesting=self.nesting)

    def _of_guide(self, sites: dict[str, Site]) -> Found:
        values = {n: self._by_datum(s.value, len(s.fn.event_shape)) for n, s in sites.items()}
        return {"values": values, "means": {n: self._mean(s) for n, s in sites.items()}}

    def _mean(self, site: Site) -> Tensor:
        """(K, N, *units, 1), or of classes (K, N, *units, C)."""
        fn: Any = site.fn
        base = fn.base_dist if isinstance(fn, Independent) else fn
        if isinstance(base, Categorical):
            return self._by_datum(base.probs, fn.event_dim + 1)
        try:
            mean = fn.mean
        except NotImplementedError:
            mean = site.value
        return self._by_datum(mean, fn.event_dim)[..., None]

    def _divergence(self, site: Site, draws: Draws) -> tuple[str, Tensor]:
        """KL(q || p), or log q - log p, of units or of all units together: (K, N, *units)."""
        q: Any = site.fn
        p: Any = draws.model[site.name].fn
        plates = len(q.batch_shape)
        if isinstance(q, Independent) and isinstance(p, Independent):
            q, p = q.base_dist, p.base_dist
        kind, value = "log_ratio", q.log_prob(site.value) - p.log_prob(site.value)
        if closed_given_draws(site.name, draws.model, draws.guide):
            with suppress(NotImplementedError):
                kind, value = "kl", kl_divergence(q, p).expand(q.batch_shape)
        return kind, self._by_datum(value, value.dim() - plates)

    def _by_datum(self, value: Tensor, event_dim: int) -> Tensor:
        """(K, N, *units) of (K, *inner plates, N, *event)."""
        missing = self.nesting + 1 + event_dim - value.dim()
        value = value.reshape((1,) * missing + tuple(value.shape))
        return value.movedim(self.nesting, 1)

    def _among(self, values: Array, n: int) -> Tensor:
        """Values (M, *units) for each of n data: (M, *inner plates, n, *event)."""
        given = torch.as_tensor(values, device=self.model.device).unsqueeze(self.nesting)
        shape = list(given.shape)
        shape[self.nesting] = n
        given = given.expand(shape)
        return given if len(values) > 1 else given[0]  # there is no plate of one particle

    def _instead(self, values: Array) -> Tensor:
        """A value for each datum, (N, *units), in the program's own shape."""
        given = torch.as_tensor(values, device=self.model.device)
        return given.movedim(0, self.nesting - 1)


class _Given(Messenger):
    """Gives latent sites their values."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class _Drawn(Messenger):
    """Sites that are marked for enumeration are drawn like others."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["infer"] = {**msg["infer"], "enumerate": None}


def _nothing(*data: Any) -> None:
    """A program without sites."""


def _drawn(draws: Draws) -> dict[str, Site]:
    """The latent sites of the guide."""
    sites = {site.name: site for site in latents(draws)}
    check_latents(sites)
    return sites
