"""See `ppl_vae.inference.evaluation.trained_pair`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro import handlers
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.numpyro.inference.draws import Draws, Program, Site, draw
from ppl_vae.numpyro.inference.evaluation.units import unit_divergences, unit_means
from ppl_vae.numpyro.inference.objectives.parts.log_weights import latents, log_weights
from ppl_vae.numpyro.models.base import (
    Model,
    as_jax,
    check_model,
    parameters,
    with_parameters,
)
from ppl_vae.shared.checks import as_numpy
from ppl_vae.shared.evaluation.pair import Arrays, Pair, Quantities
from ppl_vae.shared.evaluation.sites import (
    check_drawn,
    check_latents,
    check_simulated,
    check_some,
)


class TrainedPair(Pair):
    """A NumPyro model/guide pair and its data on the model's device; see `Pair`."""

    model: Model

    def __init__(self, model: Model, data: Any, **settings: Any) -> None:
        check_model(model)
        super().__init__(model, data, **settings)
        self.weights = parameters(model)
        weight = next(iter(self.weights.values()))
        self.data = Batches(self.arrays, next(iter(weight.devices())), weight.dtype)
        self.compiled: dict[Any, Callable[..., Any]] = {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        # NumPyro's checks would stop a model with NaN parameters.
        with numpyro.validation_enabled(False):
            yield

    def batches(self) -> Iterator[tuple[list[Array], Array]]:
        """Return the arguments of the programs for each batch, and a random key."""
        return ((self.batch(rows), self.key(number)) for number, rows in enumerate(self.rows()))

    def batch(self, rows: slice, shift: int = 0) -> list[Array]:
        """Return the arguments of the programs for the data `shift` rows later, cyclically."""
        index = (jnp.arange(rows.start, rows.stop) + shift) % self.n
        return [array[index] for array in self.data.arrays]

    def key(self, number: int) -> Array:
        """Return the random key with this number."""
        return jax.random.fold_in(jax.random.key(self.seed), number)

    def run(self, name: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Return `function(pair, *args)`, compiled once for each name and shape of arguments."""

        def program(weights: Any, *args: Any) -> Any:
            return function(with_parameters(self.model, weights), *args)

        return self.compiled.setdefault(name, jax.jit(program))(self.weights, *args)

    def draws(self, rows: slice, k: int, number: int) -> Draws:
        return self.draws_of(self.model, self.batch(rows), k, self.key(number))

    def draws_of(self, pair: Model, batch: Sequence[Array], k: int, key: Array) -> Draws:
        """Return the sites of guide and model of `pair` for k draws of a batch."""
        settings = {"k": k, "max_plate_nesting": self.nesting}
        return draw(pair.model, pair.guide, *batch, key=key, **settings)

    def latents_of(self, sites: Mapping[str, Any]) -> Arrays:
        observed: list[str] = []
        event_dims: dict[str, int] = {}

        def record(data: Any) -> None:
            draws = self._draw(self.model, self.model.model, data, 1, self.key(0))
            observed.extend(site.name for site in draws.model.values() if site.observed)
            event_dims.update({n: site.fn.event_dim for n, site in _latent_sites(draws).items()})

        with self.evaluating():
            jax.eval_shape(record, self.batch(slice(0, 1)))
        check_simulated(self.model, observed)
        return {
            name: as_numpy(self._by_datum(sites[name], event_dim)[0])
            for name, event_dim in event_dims.items()
        }

    def _guide(self, rows: slice, k: int, number: int) -> Quantities:
        def run(pair: Model, data: Any, key: Array) -> Quantities:
            # The guide in place of the model, which would decode each draw in vain.
            return self._guide_quantities(_latent_sites(self._draw(pair, None, data, k, key)))

        return self._quantities(("guide", k), run, rows, number)

    def _joint(self, rows: slice, k: int, number: int, replicate: bool) -> Quantities:
        def run(pair: Model, data: Any, key: Array) -> Quantities:
            for_draws, for_replicates = jax.random.split(key)
            draws = self._draw(pair, pair.model, data, k, for_draws)
            return self._joint_quantities(draws, for_replicates if replicate else None)

        return self._quantities(("joint", k, replicate), run, rows, number)

    def _log_weights(self, rows: slice, k: int, number: int) -> Quantities:
        def run(pair: Model, data: Any, key: Array) -> Quantities:
            draws = self._draw(pair, pair.model, data, k, key)
            log_w = log_weights(draws)
            check_some(latents(draws))
            return {"log_w": {"all": log_w}}

        return self._quantities(("log_weights", k), run, rows, number)

    def _prior(self, rows: slice, k: int, number: int) -> Quantities:
        def run(pair: Model, data: Any, key: Array) -> Quantities:
            with handlers.seed(rng_seed=key), handlers.trace() as trace:
                program = handlers.uncondition(pair.model)
                if k > 1:
                    with numpyro.plate("particles", k, dim=-1 - self.nesting):
                        program(*data)
                else:
                    program(*data)
            sites = [site for site in trace.values() if site["type"] == "sample"]
            return {
                "prior": {s["name"]: self._by_datum(s["value"], s["fn"].event_dim) for s in sites}
            }

        return self._quantities(("prior", k), run, rows, number)

    def _log_guide(self, rows: slice, values: Arrays) -> Any:
        n, m = rows.stop - rows.start, len(next(iter(values.values())))

        def run(pair: Model, data: Any, values: dict[str, Array]) -> Any:
            given = {name: self._as_particles(value, n) for name, value in values.items()}
            sites = _latent_sites(self._draw(pair, None, data, m, self.key(0), given))
            return sum(site.log_prob for site in sites.values())

        return self.run(("log_guide", n, m), run, self.batch(rows), values)

    def _log_prior(self, rows: slice, values: Arrays, shift: int) -> Any:
        def run(pair: Model, data: Any, values: dict[str, Array]) -> Any:
            given = {n: jnp.moveaxis(v, 0, self.nesting - 1) for n, v in values.items()}
            draws = self._draw(pair, pair.model, data, 1, self.key(0), given)
            return sum(draws.model[name].log_prob for name in values)

        return self.run(("log_prior",), run, self.batch(rows, shift), values)

    def _quantities(
        self, name: Any, run: Callable[..., Quantities], rows: slice, number: int
    ) -> Quantities:
        quantities: Quantities = self.run(name, run, self.batch(rows), self.key(number))
        return quantities

    def _draw(
        self,
        pair: Model,
        model: Program | None,
        data: Any,
        k: int,
        key: Array,
        given: dict[str, Array] | None = None,
    ) -> Draws:
        """Run the guide, with given values if any, and the model or else the guide once more."""
        guide: Program = _DoNotEnumerate(pair.guide)
        if given is not None:
            guide = handlers.substitute(guide, data=given)
        settings = {"k": k, "max_plate_nesting": self.nesting}
        return draw(model or pair.guide, guide, *data, key=key, **settings)

    def _guide_quantities(self, sites: dict[str, Site]) -> Quantities:
        dims = {name: site.fn.event_dim for name, site in sites.items()}
        return {
            "values": {n: self._by_datum(s.value, dims[n]) for n, s in sites.items()},
            "means": {n: self._by_datum(unit_means(s), dims[n] + 1) for n, s in sites.items()},
        }

    def _joint_quantities(self, draws: Draws, for_replicates: Array | None) -> Quantities:
        sites = _latent_sites(draws)
        check_drawn(draws.model, sites)
        observed = {name: site for name, site in draws.model.items() if site.observed}
        quantities: Quantities = {
            **self._guide_quantities(sites),
            "kl": {},
            "log_ratio": {},
            "replicates": {},
        }
        for name, site in sites.items():
            kind, value, units = unit_divergences(site, draws)
            quantities[kind][name] = self._by_datum(value, units)
        quantities["log_q"] = {name: site.log_prob for name, site in sites.items()}
        quantities["log_p"] = {name: draws.model[name].log_prob for name in sites}
        quantities["log_likelihood"] = {name: site.log_prob for name, site in observed.items()}
        quantities["observed"] = {
            n: self._by_datum(s.value, s.fn.event_dim) for n, s in observed.items()
        }
        if for_replicates is not None:
            keys = jax.random.split(for_replicates, len(observed))
            quantities["replicates"] = {
                name: self._by_datum(site.fn.sample(key), site.fn.event_dim)
                for key, (name, site) in zip(keys, observed.items(), strict=True)
            }
        return quantities

    def _by_datum(self, value: Array, event_dim: int) -> Array:
        """Return (K, *inner plates, N, *event) as (K, N, *units)."""
        missing = self.nesting + 1 + event_dim - value.ndim
        return jnp.moveaxis(value.reshape((1,) * missing + value.shape), self.nesting, 1)

    def _as_particles(self, values: Array, n: int) -> Array:
        """Return values (M, *units) for each of n data, (M, *inner plates, n, *event)."""
        given = jnp.repeat(jnp.expand_dims(values, self.nesting), n, self.nesting)
        return given if len(values) > 1 else given[0]  # one particle has no plate


def simulate(model: Model, data: list[Any], seed: int) -> Mapping[str, Any]:
    """See `ppl_vae.inference.evaluation.trained_pair.simulate`."""
    program = jax.jit(lambda *data: model.simulate(*data, key=jax.random.key(seed)))
    sites: Mapping[str, Any] = program(*map(as_jax, data))
    return sites


class _DoNotEnumerate(Messenger):  # type: ignore[misc]
    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            msg["infer"] = {**msg["infer"], "enumerate": None}


def _latent_sites(draws: Draws) -> dict[str, Site]:
    sites = {site.name: site for site in latents(draws)}
    check_latents(sites)
    return sites
