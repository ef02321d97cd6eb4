"""Tempered densities between the prior and the posterior, in unconstrained space."""

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.primitives import plate
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppl_vae.inference.draws import Draws, Program, Site, draw, per_datum
from ppl_vae.inference.objectives.parts.equality import same

Terms: TypeAlias = tuple[Tensor, Tensor]
"""log p(z) + log |dz/du| and log p(x | z) of each chain and datum, (..., K, N); dimensions further
left enumerate discrete sites."""


class Tempered:
    """Densities between p(z) and p(x, z), for K chains and N data in parallel.

        f_beta(u) = sum_y p(y, z) p(x | y, z)^beta |dz/du|,    z = z(u)

    u, of shape (K, N, D), concatenates all latent variables of a datum in unconstrained space
    (`biject_to`); y are the discrete ones that the model enumerates.

    Args:
        model: A Pyro program p(x, z) of `data`.
        data: The arguments of the program.
        chains: Number of chains K.
        max_plate_nesting: Number of plate dimensions of the program.
        alternative: Advice for error messages, if the sites cannot be moved.

    Raises:
        ValueError: a latent site is discrete and not enumerated, has a mask, lies outside the data
            plate, or has a support that `biject_to` does not know; or there is none.
    """

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
        self.shapes = {name: part.shape for name, part in self._parts({}).items()}

    @torch.no_grad()
    def start(self, latents: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return initial positions: draws from the prior, or values `latents`, (N, ...) by site.

        Returns:
            Positions u, shape (K, N, D).
        """
        parts = self._parts(latents or {})
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts.values()], -1)

    def terms(self, position: Tensor) -> Terms:
        """Return log p(z) + log |dz/du| and log p(x | z) at positions u."""
        at = _Condition(self._unpack(position))
        sites = self._draw(at(self.model), _empty).model.values()
        prior = [per_datum(log_det, self.nesting) for log_det in at.log_dets]
        prior += [s.log_prob for s in sites if s.name in at.values or s.enum_dim is not None]
        likelihood = [s.log_prob for s in sites if s.observed and s.name not in at.values]
        return sum(prior[1:], prior[0]), sum(likelihood, torch.zeros_like(prior[0]))

    def of(self, *data: Any) -> "Tempered":
        """Return the same densities for other data of these shapes."""
        other = copy.copy(self)
        other.data = data
        return other

    def gradient(self, position: Tensor, beta: float | Tensor) -> Tensor:
        """Return the gradient of log f_beta with respect to the position, (K, N, D)."""
        with torch.enable_grad():
            position = position.detach().requires_grad_()
            log_f = tempered(self.terms(position), beta)
            (gradient,) = torch.autograd.grad(log_f.sum(), position)
        return gradient

    def _draw(self, model: Program, guide: Program) -> Draws:
        return draw(model, guide, *self.data, k=self.chains, max_plate_nesting=self.nesting)

    def _parts(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model, and return u of each site, (K, N, ...)."""
        program: Program = _Substitute(latents)(self.model)
        if self.chains > 1:
            program = plate("particles", self.chains, dim=-1 - self.nesting)(program)
        nodes: Mapping[str, Any] = poutine.trace(program).get_trace(*self.data).nodes
        return {name: self._unconstrained(nodes[name]) for name in self.names}

    def _unconstrained(self, node: Any) -> Tensor:
        fn: Any = node["fn"]
        batch = tuple(fn.batch_shape)
        value: Tensor = node["value"].expand(batch + tuple(fn.event_shape))
        if not unbounded(fn.support):
            value = biject_to(fn.support).inv(value)
        missing = self.nesting + 1 - len(batch)
        value = value.reshape((1,) * missing + tuple(value.shape))
        return value.movedim(self.nesting, 1)  # the data: (K, inner plates, N, ...) -> (K, N, ...)

    def _unpack(self, position: Tensor) -> dict[str, Tensor]:
        """Return u of each site in the shape of its distribution, (K, ..., N, ...)."""
        sizes = [math.prod(shape[2:]) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), position.split(sizes, -1), strict=True)
        return {name: p.reshape(shape).movedim(1, self.nesting) for (name, shape), p in parts}


def tempered(terms: Terms, beta: float | Tensor) -> Tensor:
    """Return log f_beta from its terms, (K, N); no branch depends on the value of a tensor beta."""
    log_prior, log_likelihood = terms
    if isinstance(beta, Tensor):
        log_likelihood = log_likelihood.masked_fill(beta == 0, 0.0)  # not 0 times minus infinity
        log_f = log_prior + beta * log_likelihood
    else:
        log_f = log_prior + beta * log_likelihood if beta else log_prior
    return log_f.flatten(0, -3).logsumexp(0) if log_f.dim() > 2 else log_f


def increment(terms: Terms, before: float, after: float) -> Tensor:
    """Return log f_after - log f_before from their terms, (K, N)."""
    if terms[0].dim() > 2 or terms[1].dim() > 2:
        return tempered(terms, after) - tempered(terms, before)
    return (after - before) * terms[1]


def unbounded(support: Any) -> bool:
    """Return whether a support is all real numbers, or vectors of them."""
    wrapped = (constraints.independent, constraints.MixtureSameFamilyConstraint)
    while isinstance(support, wrapped):
        support = support.base_constraint
    return support is constraints.real


def check(sites: Any, alternative: str = "") -> None:
    """Check that Hamiltonian moves exist for the latent sites of a model.

    Args:
        sites: The sites.
        alternative: Advice for the error message.

    Raises:
        ValueError: a site has no moves, or there is no latent site.
    """
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
    if not same(site.mask, None):
        raise ValueError(f"site {site.name!r} should not have a mask, had one{advice}")
    if site.enum_dim is not None:
        return
    support: Any = site.fn.support
    if support.is_discrete:
        raise ValueError(
            f"site {site.name!r} should be continuous or marked "
            f"infer={{'enumerate': 'parallel'}} in the model, was drawn from a discrete "
            f"{type(site.fn).__name__}{advice}"
        )
    try:
        if not unbounded(support):
            biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"site {site.name!r} should have a support that biject_to knows, had {support}"
        ) from error


def _empty(*data: Any) -> None:
    """A guide without sites: all latents are given or enumerated."""


class _Substitute(Messenger):
    """Sets the values of latent sites."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]


class _Condition(Messenger):
    """Conditions latent sites on z(u), and collects log |dz/du| where z(u) differs from u."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_dets: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.values:
            return
        value, support = self.values[msg["name"]], msg["fn"].support
        if not unbounded(support):
            transform: Any = biject_to(support)
            u, value = value, transform(value)
            self.log_dets.append(transform.log_abs_det_jacobian(u, value))
        msg["value"], msg["is_observed"] = value, True
