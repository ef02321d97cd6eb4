"""See `ppl_vae.inference.evaluation.tempered`."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.draws import Draws, Program, Site, draw, per_datum, unwrap

Terms: TypeAlias = tuple[Array, Array]
"""log p(z) + log |dz/du| and log p(x | z) of each chain and datum, (..., K, N); dimensions further
left enumerate discrete sites."""


class Tempered:
    """See `ppl_vae.inference.evaluation.tempered.Tempered`."""

    def __init__(
        self,
        model: Program,
        *data: Any,
        chains: int = 1,
        max_plate_nesting: int = 1,
        alternative: str = "",
    ) -> None:
        self.model, self.data = model, data
        self.chains, self.nesting = chains, max_plate_nesting
        sites = self._draw(model, model).model
        self.names = [s.name for s in sites.values() if not s.observed and s.enum_dim is None]
        check(sites.values(), alternative)
        parts = self._parts({}, jax.random.key(0))
        self.shapes = {name: part.shape for name, part in parts.items()}

    def start(self, key: Array, latents: Mapping[str, Array] | None = None) -> Array:
        """Return initial positions, (K, N, D): draws from the prior, or the values `latents`."""
        parts = self._parts(latents or {}, key)
        return jnp.concatenate([p.reshape((*p.shape[:2], -1)) for p in parts.values()], -1)

    def terms(self, position: Array) -> Terms:
        """Return log p(z) + log |dz/du| and log p(x | z) at positions u."""
        at = _Condition(self._unpack(position))
        sites = self._draw(_with_messenger(at, self.model), _empty).model.values()
        prior = [per_datum(log_det, self.nesting) for log_det in at.log_dets]
        prior += [s.log_prob for s in sites if s.name in at.values or s.enum_dim is not None]
        likelihood = [s.log_prob for s in sites if s.observed and s.name not in at.values]
        return sum(prior[1:], prior[0]), sum(likelihood, jnp.zeros_like(prior[0]))

    def gradient(self, position: Array, beta: Array) -> Array:
        """Return the gradient of log f_beta with respect to the position, (K, N, D)."""
        log_f = lambda at: tempered(self.terms(at), beta).sum()  # noqa: E731
        gradient: Array = jax.grad(log_f)(position)
        return gradient

    def _draw(self, model: Program, guide: Program) -> Draws:
        settings = {"k": self.chains, "max_plate_nesting": self.nesting}
        return draw(model, guide, *self.data, key=jax.random.key(0), **settings)

    def _parts(self, latents: Mapping[str, Array], key: Array) -> dict[str, Array]:
        """Run the model, and return u of each site, (K, N, ...)."""
        with handlers.seed(rng_seed=key), handlers.trace() as nodes, _Substitute(latents):
            if self.chains > 1:
                with numpyro.plate("particles", self.chains, dim=-1 - self.nesting):
                    self.model(*self.data)
            else:
                self.model(*self.data)
        return {name: self._unconstrained(nodes[name]) for name in self.names}

    def _unconstrained(self, node: Any) -> Array:
        fn = node["fn"]
        value = jnp.broadcast_to(node["value"], fn.batch_shape + fn.event_shape)
        if not unbounded(fn.support):
            value = biject_to(fn.support).inv(value)
        missing = self.nesting + 1 - len(fn.batch_shape)
        value = value.reshape((1,) * missing + value.shape)
        return jnp.moveaxis(value, self.nesting, 1)  # (K, inner plates, N, ...) -> (K, N, ...)

    def _unpack(self, position: Array) -> dict[str, Array]:
        """Return u of each site in the shape of its distribution, (K, ..., N, ...)."""
        sizes = [math.prod(shape[2:]) for shape in self.shapes.values()]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = zip(self.shapes.items(), jnp.split(position, ends, -1), strict=True)
        return {n: jnp.moveaxis(p.reshape(shape), 1, self.nesting) for (n, shape), p in parts}


def tempered(terms: Terms, beta: Array | float) -> Array:
    """See `ppl_vae.inference.evaluation.tempered.tempered`."""
    log_prior, log_likelihood = terms
    # Not 0 times minus infinity.
    log_f = log_prior + jnp.where(beta == 0, 0, beta * log_likelihood)
    if log_f.ndim > 2:
        log_f = jnp.asarray(logsumexp(log_f.reshape(-1, *log_f.shape[-2:]), axis=0))
    return log_f


def increment(terms: Terms, before: Array, after: Array) -> Array:
    """See `ppl_vae.inference.evaluation.tempered.increment`."""
    if terms[0].ndim > 2 or terms[1].ndim > 2:
        return tempered(terms, after) - tempered(terms, before)
    return (after - before) * terms[1]


def unbounded(support: Any) -> bool:
    """See `ppl_vae.inference.evaluation.tempered.unbounded`."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def check(sites: Any, alternative: str = "") -> None:
    """See `ppl_vae.inference.evaluation.tempered.check`."""
    advice = alternative and f": {alternative}"
    for site in sites:
        if not site.local:
            raise ValueError(
                f"site {site.name!r} should lie in the data plate, but it belongs to all data"
            )
        if not site.observed:
            _check_latent(site, advice)
    if all(site.observed or site.enum_dim is not None for site in sites):
        raise ValueError(
            f"model should have a latent site that is not enumerated, had none{advice}"
        )


def _check_latent(site: Site, advice: str) -> None:
    if site.mask is not None:
        raise ValueError(f"site {site.name!r} should not have a mask, had one{advice}")
    if site.enum_dim is not None:
        return
    support: Any = site.fn.support
    if support.is_discrete:
        raise ValueError(
            f"site {site.name!r} should be continuous or marked "
            f"infer={{'enumerate': 'parallel'}} in the model, was drawn from a discrete "
            f"{type(unwrap(site.fn)[0]).__name__}{advice}"
        )
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"site {site.name!r} should have a support that biject_to knows, had {support}"
        ) from error


def _empty(*data: Any) -> None:
    """A guide without sites: all latents are given or enumerated."""


def _with_messenger(messenger: Messenger, model: Program) -> Program:
    def program(*data: Any) -> None:
        with messenger:
            model(*data)

    return program


class _Substitute(Messenger):  # type: ignore[misc]
    """Sets the values of latent sites."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        super().__init__()
        self.values = values

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]


class _Condition(Messenger):  # type: ignore[misc]
    """Conditions latent sites on z(u), and collects log |dz/du| where z(u) differs from u."""

    def __init__(self, values: dict[str, Array]) -> None:
        super().__init__()
        self.values = values
        self.log_dets: list[Array] = []

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["name"] not in self.values:
            return
        value, support = self.values[msg["name"]], msg["fn"].support
        if not unbounded(support):
            transform = biject_to(support)
            u, value = value, transform(value)
            self.log_dets.append(transform.log_abs_det_jacobian(u, value))
        msg["value"], msg["is_observed"] = value, True
