"""A Pyro model/guide pair and its data: draws and log densities for measurements."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.draws import Draws, Program, Site, draw
from ppl_vae.inference.evaluation.units import unit_divergences, unit_means
from ppl_vae.inference.objectives.parts.log_weights import latents, log_weights
from ppl_vae.models.base import Model, check_model, evaluating
from ppl_vae.shared.checks import as_numpy
from ppl_vae.shared.evaluation.pair import Array, Arrays, Pair, Quantities
from ppl_vae.shared.evaluation.sites import (
    check_drawn,
    check_latents,
    check_simulated,
    check_some,
)


class TrainedPair(Pair):
    """A Pyro model/guide pair and its data on the model's device; see `Pair`."""

    model: Model

    def __init__(self, model: Model, data: Any, **settings: Any) -> None:
        check_model(model)
        super().__init__(model, data, **settings)
        self.data = Batches(self.arrays, model.device, next(model.parameters()).dtype)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        isolated = random_state.isolated(self.seed, self.model.device)
        with evaluating(self.model), isolated, torch.no_grad(), pyro.validation_enabled(False):
            yield

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """Return the arguments of the programs for each batch."""
        return (self.batch(rows) for rows in self.rows())

    def batch(self, rows: slice, shift: int = 0) -> tuple[Tensor, ...]:
        """Return the arguments of the programs for the data `shift` rows later, cyclically."""
        return self.data[(torch.arange(rows.start, rows.stop) + shift) % self.n]

    def draws(self, rows: slice, k: int, number: int) -> Draws:
        return self.draws_of(self.batch(rows), k)

    def draws_of(self, batch: Sequence[Tensor], k: int) -> Draws:
        """Return the sites of guide and model for k draws of a batch."""
        programs = self.model.model, self.model.guide
        return draw(*programs, *batch, k=k, max_plate_nesting=self.nesting)

    def latents_of(self, sites: Mapping[str, Any]) -> Arrays:
        with self.evaluating():
            draws = self._draw(self.model.model, slice(0, 1), 1)
        check_simulated(self.model, [s.name for s in draws.model.values() if s.observed])
        return {
            name: as_numpy(self._by_datum(sites[name], len(site.fn.event_shape))[0])
            for name, site in _latent_sites(draws).items()
        }

    def _guide(self, rows: slice, k: int, number: int) -> Quantities:
        # Without the model, which would decode each draw in vain.
        return self._guide_quantities(_latent_sites(self._draw(_empty, rows, k)))

    def _joint(self, rows: slice, k: int, number: int, replicate: bool) -> Quantities:
        draws = self._draw(self.model.model, rows, k)
        sites = _latent_sites(draws)
        check_drawn(draws.model, sites)
        observed: dict[str, Any] = {n: s for n, s in draws.model.items() if s.observed}
        quantities: Quantities = {**self._guide_quantities(sites), "kl": {}, "log_ratio": {}}
        for name, site in sites.items():
            kind, value, units = unit_divergences(site, draws)
            quantities[kind][name] = self._by_datum(value, units)
        quantities["log_q"] = {name: site.log_prob for name, site in sites.items()}
        quantities["log_p"] = {name: draws.model[name].log_prob for name in sites}
        quantities["log_likelihood"] = {name: site.log_prob for name, site in observed.items()}
        quantities["observed"] = {
            n: self._by_datum(s.value, s.fn.event_dim) for n, s in observed.items()
        }
        quantities["replicates"] = {
            n: self._by_datum(s.fn.sample(), s.fn.event_dim)
            for n, s in observed.items()
            if replicate
        }
        return quantities

    def _log_weights(self, rows: slice, k: int, number: int) -> Quantities:
        draws = self._draw(self.model.model, rows, k)
        log_w = log_weights(draws)
        check_some(latents(draws))
        return {"log_w": {"all": log_w}}

    def _prior(self, rows: slice, k: int, number: int) -> Quantities:
        program: Program = poutine.uncondition(self.model.model)
        if k > 1:
            program = pyro.plate("particles", k, dim=-1 - self.nesting)(program)
        trace = prune_subsample_sites(poutine.trace(program).get_trace(*self.batch(rows)))
        nodes: Any = {name: trace.nodes[name] for name in trace.stochastic_nodes}
        values = {n: self._by_datum(s["value"], s["fn"].event_dim) for n, s in nodes.items()}
        return {"prior": values}

    def _log_guide(self, rows: slice, values: Arrays) -> Any:
        n = rows.stop - rows.start
        with _Substitute({name: self._as_particles(value, n) for name, value in values.items()}):
            draws = self._draw(_empty, rows, len(next(iter(values.values()))))
        return sum(site.log_prob for site in _latent_sites(draws).values())

    def _log_prior(self, rows: slice, values: Arrays, shift: int) -> Any:
        with _Substitute({name: self._as_data(value) for name, value in values.items()}):
            draws = self._draw(self.model.model, rows, 1, shift)
        return sum(draws.model[name].log_prob for name in values)

    def _draw(self, model: Program, rows: slice, k: int, shift: int = 0) -> Draws:
        guide, batch = _DoNotEnumerate()(self.model.guide), self.batch(rows, shift)
        return draw(model, guide, *batch, k=k, max_plate_nesting=self.nesting)

    def _guide_quantities(self, sites: dict[str, Site]) -> Quantities:
        dims = {name: len(site.fn.event_shape) for name, site in sites.items()}
        return {
            "values": {n: self._by_datum(s.value, dims[n]) for n, s in sites.items()},
            "means": {n: self._by_datum(unit_means(s), dims[n] + 1) for n, s in sites.items()},
        }

    def _by_datum(self, value: Tensor, event_dim: int) -> Tensor:
        """Return (K, *inner plates, N, *event) as (K, N, *units)."""
        missing = self.nesting + 1 + event_dim - value.dim()
        value = value.reshape((1,) * missing + tuple(value.shape))
        return value.movedim(self.nesting, 1)

    def _as_particles(self, values: Array, n: int) -> Tensor:
        """Return values (M, *units) for each of n data, (M, *inner plates, n, *event)."""
        given = torch.as_tensor(values, device=self.model.device).unsqueeze(self.nesting)
        shape = list(given.shape)
        shape[self.nesting] = n
        given = given.expand(shape)
        return given if len(values) > 1 else given[0]  # one particle has no plate

    def _as_data(self, values: Array) -> Tensor:
        """Return one value per datum, (N, *units), in the program's own shape."""
        given = torch.as_tensor(values, device=self.model.device)
        return given.movedim(0, self.nesting - 1)


def simulate(model: Model, data: list[Any], seed: int) -> Mapping[str, Any]:
    """Return a draw of every site of the model; `data` give conditions and shapes."""
    with random_state.isolated(seed, model.device):
        return model.simulate(*model.as_tensors(*data))


class _Substitute(Messenger):
    """Sets the values of latent sites."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class _DoNotEnumerate(Messenger):
    """Draws sites that are marked for enumeration."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["infer"] = {**msg["infer"], "enumerate": None}


def _empty(*data: Any) -> None:
    """A program without sites."""


def _latent_sites(draws: Draws) -> dict[str, Site]:
    sites = {site.name: site for site in latents(draws)}
    check_latents(sites)
    return sites
