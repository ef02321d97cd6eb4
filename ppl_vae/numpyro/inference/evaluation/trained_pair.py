"""A trained pair as measurements see it, as `ppl_vae.inference.evaluation.trained_pair`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro import handlers
from numpyro.distributions import Distribution, Independent
from numpyro.distributions.discrete import (
    BernoulliLogits,
    BernoulliProbs,
    CategoricalLogits,
    CategoricalProbs,
)
from numpyro.distributions.kl import kl_divergence
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.batches import Batches, as_tuple
from ppl_vae.numpyro.inference.draws import Draws, Program, Site, draw, unwrap
from ppl_vae.numpyro.inference.objectives.parts.log_weights import latents, log_weights
from ppl_vae.numpyro.models.base import Model, check_model, parameters, with_parameters
from ppl_vae.shared.checks import as_numpy, check_whole, sample_once
from ppl_vae.shared.evaluation.pair import Arrays, Found, Pair
from ppl_vae.shared.evaluation.sites import (
    check_drawn,
    check_latents,
    check_simulated,
    check_some,
    closed_given_draws,
)

BERNOULLI, CATEGORICAL = BernoulliLogits | BernoulliProbs, CategoricalLogits | CategoricalProbs


class TrainedPair(Pair):
    """A pair and its data.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        batch_size: Data that are looked at together.
        seed: Of the draws and the pixels.
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
        self.weights = parameters(model)
        weight = next(iter(self.weights.values()))
        self.batches = Batches(arrays, next(iter(weight.devices())), weight.dtype)
        self.n = len(self.batches)
        self.batch_size = min(batch_size, self.n)
        self.compiled: dict[Any, Callable[..., Any]] = {}

    def latents_of(self, sites: Mapping[str, Any]) -> Arrays:
        observed: list[str] = []
        event_dims: dict[str, int] = {}

        def look(data: Any) -> None:
            draws = self._draw(self.model, self.model.model, data, 1, self._key(0))
            observed.extend(site.name for site in draws.model.values() if site.observed)
            event_dims.update({name: site.fn.event_dim for name, site in _drawn(draws).items()})

        with self._looking():
            jax.eval_shape(look, self._data(slice(0, 1)))
        check_simulated(self.model, observed)
        return {
            name: as_numpy(self._by_datum(sites[name], event_dim)[0])
            for name, event_dim in event_dims.items()
        }

    @contextmanager
    def _looking(self) -> Iterator[None]:
        # NumPyro's checks would stop the run of a model that has gone wrong.
        with numpyro.validation_enabled(False):
            yield

    def _guide(self, rows: slice, k: int, number: int) -> Found:
        def run(pair: Model, data: Any, key: Array) -> Found:
            # The guide in the place of the model, which would decode each draw, for nothing.
            return self._of_guide(_drawn(self._draw(pair, None, data, k, key)))

        found: Found = self._run(("guide", k), run, self._data(rows), self._key(number))
        return found

    def _joint(self, rows: slice, k: int, number: int, replicate: bool) -> Found:
        def run(pair: Model, data: Any, key: Array) -> Found:
            for_draws, for_replicates = jax.random.split(key)
            draws = self._draw(pair, pair.model, data, k, for_draws)
            return self._of_both(draws, for_replicates if replicate else None)

        found: Found = self._run(("joint", k, replicate), run, self._data(rows), self._key(number))
        return found

    def _log_weights(self, rows: slice, k: int, number: int) -> Found:
        def run(pair: Model, data: Any, key: Array) -> Found:
            draws = self._draw(pair, pair.model, data, k, key)
            log_w = log_weights(draws)
            check_some(latents(draws))
            return {"log_w": {"all": log_w}}

        found: Found = self._run(("log_weights", k), run, self._data(rows), self._key(number))
        return found

    def _prior(self, rows: slice, k: int, number: int) -> Found:
        def run(pair: Model, data: Any, key: Array) -> Found:
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

        found: Found = self._run(("prior", k), run, self._data(rows), self._key(number))
        return found

    def _log_guide(self, rows: slice, values: Arrays) -> Any:
        n, m = rows.stop - rows.start, len(next(iter(values.values())))

        def run(pair: Model, data: Any, values: dict[str, Array]) -> Any:
            given = {name: self._among(value, n) for name, value in values.items()}
            sites = _drawn(self._draw(pair, None, data, m, self._key(0), given))
            return sum(site.log_prob for site in sites.values())

        return self._run(("log_guide", n, m), run, self._data(rows), values)

    def _log_prior(self, rows: slice, values: Arrays, shift: int) -> Any:
        def run(pair: Model, data: Any, values: dict[str, Array]) -> Any:
            given = {n: jnp.moveaxis(v, 0, self.nesting - 1) for n, v in values.items()}
            draws = self._draw(pair, pair.model, data, 1, self._key(0), given)
            return sum(draws.model[name].log_prob for name in values)

        return self._run(("log_prior",), run, self._data(rows, shift), values)

    def _run(self, name: Any, run: Callable[..., Any], *args: Any) -> Any:
        """What `run` finds of the pair, compiled once for each name and shape of the arguments."""

        def program(weights: Any, *args: Any) -> Any:
            return run(with_parameters(self.model, weights), *args)

        return self.compiled.setdefault(name, jax.jit(program))(self.weights, *args)

    def _key(self, number: int) -> Array:
        return jax.random.fold_in(jax.random.key(self.seed), number)

    def _data(self, rows: slice, shift: int = 0) -> list[Array]:
        index = (jnp.arange(rows.start, rows.stop) + shift) % self.n
        return [array[index] for array in self.batches.arrays]

    def _draw(
        self,
        pair: Model,
        model: Program | None,
        data: Any,
        k: int,
        key: Array,
        given: dict[str, Array] | None = None,
    ) -> Draws:
        """Draws of the guide, or given values, and the model; without one the guide once more."""
        guide: Program = _Drawn(pair.guide)
        if given is not None:
            guide = handlers.substitute(guide, data=given)
        settings = {"k": k, "max_plate_nesting": self.nesting}
        return draw(model or pair.guide, guide, *data, key=key, **settings)

    def _of_guide(self, sites: dict[str, Site]) -> Found:
        values = {n: self._by_datum(s.value, s.fn.event_dim) for n, s in sites.items()}
        return {"values": values, "means": {n: self._mean(s) for n, s in sites.items()}}

    def _mean(self, site: Site) -> Array:
        """(K, N, *units, 1), or of classes (K, N, *units, C)."""
        fn = site.fn
        base = _units(fn)
        if isinstance(base, CATEGORICAL):
            shape = (*fn.batch_shape, *fn.event_shape, base.probs.shape[-1])
            return self._by_datum(jnp.broadcast_to(base.probs, shape), fn.event_dim + 1)
        try:
            mean = fn.mean
        except NotImplementedError:
            mean = site.value
        return self._by_datum(mean, fn.event_dim)[..., None]

    def _of_both(self, draws: Draws, for_replicates: Array | None) -> Found:
        sites = _drawn(draws)
        check_drawn(draws.model, sites)
        observed = {name: site for name, site in draws.model.items() if site.observed}
        found: Found = {**self._of_guide(sites), "kl": {}, "log_ratio": {}, "replicates": {}}
        for name, site in sites.items():
            kind, value = self._divergence(site, draws)
            found[kind][name] = value
        found["log_q"] = {name: site.log_prob for name, site in sites.items()}
        found["log_p"] = {name: draws.model[name].log_prob for name in sites}
        found["log_likelihood"] = {name: site.log_prob for name, site in observed.items()}
        found["observed"] = {
            n: self._by_datum(s.value, s.fn.event_dim) for n, s in observed.items()
        }
        if for_replicates is not None:
            keys = jax.random.split(for_replicates, len(observed))
            found["replicates"] = {
                name: self._by_datum(site.fn.sample(key), site.fn.event_dim)
                for key, (name, site) in zip(keys, observed.items(), strict=True)
            }
        return found

    def _divergence(self, site: Site, draws: Draws) -> tuple[str, Array]:
        """KL(q || p), or log q - log p, of units or of all units together: (K, N, *units)."""
        q, p = unwrap(site.fn)[0], unwrap(draws.model[site.name].fn)[0]
        units: tuple[int, ...] = ()
        if isinstance(q, Independent) and isinstance(p, Independent):
            units = q.event_shape[: q.reinterpreted_batch_ndims]
            q, p = _units(q), _units(p)
        kind, value = "log_ratio", q.log_prob(site.value) - p.log_prob(site.value)
        if closed_given_draws(site.name, draws.model, draws.guide):
            with suppress(NotImplementedError):
                kind, value = "kl", _kl(q, p)
        value = jnp.broadcast_to(value, (*site.fn.batch_shape, *units))
        return kind, self._by_datum(value, len(units))

    def _by_datum(self, value: Array, event_dim: int) -> Array:
        """(K, N, *units) of (K, *inner plates, N, *event)."""
        missing = self.nesting + 1 + event_dim - value.ndim
        return jnp.moveaxis(value.reshape((1,) * missing + value.shape), self.nesting, 1)

    def _among(self, values: Array, n: int) -> Array:
        """Values (M, *units) for each of n data: (M, *inner plates, n, *event)."""
        given = jnp.repeat(jnp.expand_dims(values, self.nesting), n, self.nesting)
        return given if len(values) > 1 else given[0]  # there is no plate of one particle


class _Drawn(Messenger):  # type: ignore[misc]
    """Sites that are marked for enumeration are drawn like others."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            msg["infer"] = {**msg["infer"], "enumerate": None}


def _units(fn: Distribution) -> Distribution:
    """The distribution of units that are independent of one another."""
    base = unwrap(fn)[0]
    return unwrap(base.base_dist)[0] if isinstance(base, Independent) else base


def _kl(q: Distribution, p: Distribution) -> Array:
    """KL(q || p) in closed form, for the discrete distributions that NumPyro has none of, too."""
    if isinstance(q, BERNOULLI) and isinstance(p, BERNOULLI):
        logits = (jnp.stack([jnp.zeros_like(d.logits), d.logits], -1) for d in (q, p))
    elif isinstance(q, CATEGORICAL) and isinstance(p, CATEGORICAL):
        logits = (d.logits for d in (q, p))
    else:
        return jnp.asarray(kl_divergence(q, p))
    log_q, log_p = (jax.nn.log_softmax(value) for value in logits)
    return jnp.where(jnp.isneginf(log_q), 0.0, jnp.exp(log_q) * (log_q - log_p)).sum(-1)


def _drawn(draws: Draws) -> dict[str, Site]:
    """The latent sites of the guide."""
    sites = {site.name: site for site in latents(draws)}
    check_latents(sites)
    return sites
