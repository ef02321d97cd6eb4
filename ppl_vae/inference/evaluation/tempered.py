"""The way from the prior of a model's latent variables to their posterior, unconstrained."""

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
from ppl_vae.inference.objectives.parts.kl import same

Terms: TypeAlias = tuple[Tensor, Tensor]
"""log p(z) + log |dz/du| and log p(x | z) of each chain and datum, (..., K, N): dimensions further
left enumerate discrete sites."""


class Tempered:
    """Densities between p(z) and p(x, z), for K chains and N data side by side.

        f_beta(u) = sum_y p(y, z) p(x | y, z)^beta |dz/du|,    z = z(u)

    u, of shape (K, N, D), are all latent variables of a datum in a row, without constraints
    (`biject_to`); y are the discrete ones that the model enumerates.

    Args:
        model: A Pyro program p(x, z) of `data`.
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
        self.shapes = {name: part.shape for name, part in self._parts({}).items()}

    @torch.no_grad()
    def start(self, latents: Mapping[str, Tensor] | None = None) -> Tensor:
        """Where chains begin: draws from the prior, or the values `latents` of all sites, (N, ...).

        Returns:
            Positions u, shape (K, N, D).
        """
        parts = self._parts(latents or {})
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts.values()], -1)

    def terms(self, position: Tensor) -> Terms:
        """log p(z) + log |dz/du| and log p(x | z) at positions u."""
        at = _At(self._unpacked(position))
        sites = self._draw(at(self.model), _nothing).model.values()
        prior = [per_datum(log_det, self.nesting) for log_det in at.log_dets]
        prior += [s.log_prob for s in sites if s.name in at.values or s.enum_dim is not None]
        likelihood = [s.log_prob for s in sites if s.observed and s.name not in at.values]
        return sum(prior[1:], prior[0]), sum(likelihood, torch.zeros_like(prior[0]))

    def of(self, *data: Any) -> "Tempered":
        """The same densities of other data of these shapes."""
        other = copy.copy(self)
        other.data = data
        return other

    def gradient(self, position: Tensor, beta: float | Tensor) -> Tensor:
        """The gradient of log f_beta by the position, (K, N, D)."""
        with torch.enable_grad():
            position = position.detach().requires_grad_()
            log_f = tempered(self.terms(position), beta)
            (gradient,) = torch.autograd.grad(log_f.sum(), position)
        return gradient

    def _draw(self, model: Program, guide: Program) -> Draws:
        return draw(model, guide, *self.data, k=self.chains, max_plate_nesting=self.nesting)

    def _parts(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """u of each site in a run of the model, (K, N, ...)."""
        program: Program = _Values(latents)(self.model)
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

    def _unpacked(self, position: Tensor) -> dict[str, Tensor]:
        """u of each site as its distribution in the program has it, (K, ..., N, ...)."""
        sizes = [math.prod(shape[2:]) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), position.split(sizes, -1), strict=True)
        return {name: p.reshape(shape).movedim(1, self.nesting) for (name, shape), p in parts}


def tempered(terms: Terms, beta: float | Tensor) -> Tensor:
    """log f_beta from its terms, (K, N); a tensor beta, a scalar, is not looked at."""
    log_prior, log_likelihood = terms
    if isinstance(beta, Tensor):
        log_likelihood = log_likelihood.masked_fill(beta == 0, 0.0)  # not 0 times minus infinity
        log_f = log_prior + beta * log_likelihood
    else:
        log_f = log_prior + beta * log_likelihood if beta else log_prior
    return log_f.flatten(0, -3).logsumexp(0) if log_f.dim() > 2 else log_f


def increment(terms: Terms, before: float, after: float) -> Tensor:
    """log f_after - log f_before from their terms, (K, N)."""
    if terms[0].dim() > 2 or terms[1].dim() > 2:
        return tempered(terms, after) - tempered(terms, before)
    return (after - before) * terms[1]


def unbounded(support: Any) -> bool:
    """Whether a site takes all real numbers, or vectors of them."""
    wrapped = (constraints.independent, constraints.MixtureSameFamilyConstraint)
    while isinstance(support, wrapped):
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
    if not same(site.mask, None):
        raise ValueError(f"site {site.name!r} should not have a mask, had one{otherwise}")
    if site.enum_dim is not None:
        return
    support: Any = site.fn.support
    if support.is_discrete:
        raise ValueError(
            f"site {site.name!r} should be continuous or marked "
            f"infer={{'enumerate': 'parallel'}} in the model, was drawn from a discrete "
            f"{type(site.fn).__name__}{otherwise}"
        )
    try:
        if not unbounded(support):
            biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"site {site.name!r} should have a support that biject_to knows, had {support}"
        ) from error


def _nothing(*data: Any) -> None:
    """A guide that draws nothing: all latents are given or enumerated."""


class _Values(Messenger):
    """Gives latent sites their values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]


class _At(Messenger):
    """Conditions latent sites on z(u), and collects log |dz/du| where z(u) is not u."""

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
