"""The way from prior to posterior, unconstrained, as `ppl_vae.inference.evaluation.tempered`."""

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
"""log p(z) + log |dz/du| and log p(x | z) of each chain and datum, (..., K, N): dimensions further
left enumerate discrete sites."""


class Tempered:
    """Densities between p(z) and p(x, z), as `ppl_vae.inference.evaluation.tempered.Tempered`.

    Args:
        model: A NumPyro program p(x, z) of `data`.
        data: Arguments of the program.
        chains: Number of chains K.
        max_plate_nesting: Number of plate dimensions of the program.
        otherwise: What a user can do instead where there are no moves; errors say it.

    Raises:
        ValueError: a latent site is discrete and not enumerated, has a mask, lies outside the data
            plate, or has a support that is not known to `biject_to`; or there is none.
    """

    def __init__(
        self,
        model: Program,
        *data: Any,
        chains: int = 1,
        max_plate_nesting: int = 1,
        otherwise: str = "",
    ) -> None:
        self.model, self.data = model, data
        self.chains, self.nesting = chains, max_plate_nesting
        sites = self._draw(model, model).model
        self.names = [s.name for s in sites.values() if not s.observed and s.enum_dim is None]
        check(sites.values(), otherwise)
        parts = self._parts({}, jax.random.key(0))
        self.shapes = {name: part.shape for name, part in parts.items()}

    def start(self, key: Array, latents: Mapping[str, Array] | None = None) -> Array:
        """Where chains begin: draws from the prior, or the values `latents` of all sites, (N, ...).

        Returns:
            Positions u, shape (K, N, D).
        """
        parts = self._parts(latents or {}, key)
        return jnp.concatenate([p.reshape((*p.shape[:2], -1)) for p in parts.values()], -1)

    def terms(self, position: Array) -> Terms:
        """log p(z) + log |dz/du| and log p(x | z) at positions u."""
        at = _At(self._unpacked(position))
        sites = self._draw(_under(at, self.model), _nothing).model.values()
        prior = [per_datum(log_det, self.nesting) for log_det in at.log_dets]
        prior += [s.log_prob for s in sites if s.name in at.values or s.enum_dim is not None]
        likelihood = [s.log_prob for s in sites if s.observed and s.name not in at.values]
        return sum(prior[1:], prior[0]), sum(likelihood, jnp.zeros_like(prior[0]))

    def gradient(self, position: Array, beta: Array) -> Array:
        """The gradient of log f_beta by the position, (K, N, D)."""
        log_f = lambda at: tempered(self.terms(at), beta).sum()  # noqa: E731
        gradient: Array = jax.grad(log_f)(position)
        return gradient

    def _draw(self, model: Program, guide: Program) -> Draws:
        settings = {"k": self.chains, "max_plate_nesting": self.nesting}
        return draw(model, guide, *self.data, key=jax.random.key(0), **settings)

    def _parts(self, latents: Mapping[str, Array], key: Array) -> dict[str, Array]:
        """u of each site in a run of the model, (K, N, ...)."""
        with handlers.seed(rng_seed=key), handlers.trace() as nodes, _Values(latents):
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

    def _unpacked(self, position: Array) -> dict[str, Array]:
        """u of each site as its distribution in the program has it, (K, ..., N, ...)."""
        sizes = [math.prod(shape[2:]) for shape in self.shapes.values()]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = zip(self.shapes.items(), jnp.split(position, ends, -1), strict=True)
        return {n: jnp.moveaxis(p.reshape(shape), 1, self.nesting) for (n, shape), p in parts}


def tempered(terms: Terms, beta: Array | float) -> Array:
    """log f_beta from its terms, (K, N)."""
    log_prior, log_likelihood = terms
    # Not 0 times minus infinity.
    log_f = log_prior + jnp.where(beta == 0, 0, beta * log_likelihood)
    if log_f.ndim > 2:
        log_f = jnp.asarray(logsumexp(log_f.reshape(-1, *log_f.shape[-2:]), axis=0))
    return log_f


def increment(terms: Terms, before: Array, after: Array) -> Array:
    """log f_after - log f_before from their terms, (K, N)."""
    if terms[0].ndim > 2 or terms[1].ndim > 2:
        return tempered(terms, after) - tempered(terms, before)
    return (after - before) * terms[1]


def unbounded(support: Any) -> bool:
    """Whether a site takes all real numbers, or vectors of them."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def check(sites: Any, otherwise: str = "") -> None:
    """Hamiltonian moves exist for the latent sites of a model.

    Args:
        sites: The sites.
        otherwise: What a user can do instead.

    Raises:
        ValueError: for one of them they do not, or there is none.
    """
    otherwise = otherwise and f": {otherwise}"
    for site in sites:
        if not site.local:
            raise ValueError(
                f"site {site.name!r} should lie in the data plate, but it belongs to all data"
            )
        if not site.observed:
            _check_latent(site, otherwise)
    if all(site.observed or site.enum_dim is not None for site in sites):
        raise ValueError(
            f"model should have a latent site that is not enumerated, had none{otherwise}"
        )


def _check_latent(site: Site, otherwise: str) -> None:
    if site.mask is not None:
        raise ValueError(f"site {site.name!r} should not have a mask, had one{otherwise}")
    if site.enum_dim is not None:
        return
    support: Any = site.fn.support
    if support.is_discrete:
        raise ValueError(
            f"site {site.name!r} should be continuous or marked "
            f"infer={{'enumerate': 'parallel'}} in the model, was drawn from a discrete "
            f"{type(unwrap(site.fn)[0]).__name__}{otherwise}"
        )
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"site {site.name!r} should have a support that biject_to knows, had {support}"
        ) from error


def _nothing(*data: Any) -> None:
    """A guide that draws nothing: all latents are given or enumerated."""


def _under(messenger: Messenger, model: Program) -> Program:
    def program(*data: Any) -> None:
        with messenger:
            model(*data)

    return program


class _Values(Messenger):  # type: ignore[misc]
    """Gives latent sites their values."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        super().__init__()
        self.values = values

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]


class _At(Messenger):  # type: ignore[misc]
    """Conditions latent sites on z(u), and collects log |dz/du| where z(u) is not u."""

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
