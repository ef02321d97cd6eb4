"""See `ppl_vae.inference.objectives.parts.baselines`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws, Site, per_datum
from ppl_vae.numpyro.inference.objectives.parts.equality import same
from ppl_vae.numpyro.models.networks.layers import MLP, Linear, Network

Baseline: TypeAlias = Literal["average"] | eqx.Module | None
DECAY = 0.9
"""Weight of the past in the decaying average of the signal."""


class BaselineNet(Network):
    """See `ppl_vae.inference.BaselineNet`; takes a keyword-only `key`."""

    trunk: MLP
    value: Linear

    def __init__(
        self,
        in_dims: int | Sequence[int],
        hidden: Sequence[int] = (100,),
        activation: str = "tanh",
        *,
        key: Array,
    ) -> None:
        for_trunk, for_value = jax.random.split(key)
        self.trunk = MLP(in_dims, hidden, activation, key=for_trunk)
        self.value = Linear(self.trunk.out_dim, 1, key=for_value)

    def __call__(self, *inputs: Array) -> Array:
        return self.value(self.trunk(*inputs)).squeeze(-1)


@dataclass(frozen=True)
class Centring:
    """See `ppl_vae.inference.objectives.parts.baselines.Centring`."""

    average: Array
    predicted: Array
    scale: float | Array
    counted: Array

    @property
    def baseline(self) -> Array:
        return self.scale * self._expected()

    def error(self, signal: Array) -> Array:
        remains = lax.stop_gradient(signal / self.scale - self._expected())
        change = self.predicted - lax.stop_gradient(self.predicted)
        return -2 * (self.scale * self.counted * remains * change).mean(-2).sum()

    def next_average(self, signal: Array) -> Array:
        old = self.average
        total = jnp.broadcast_to(self.scale * self.counted, signal.shape).sum()
        mean = (self.counted * signal).sum() / total
        new = jnp.where(jnp.isnan(old), mean, DECAY * old + (1 - DECAY) * mean)
        return jnp.where(total > 0, new, old).astype(old.dtype)

    def _expected(self) -> Array:
        return jnp.nan_to_num(self.average, nan=0.0) + self.predicted


def centring(
    draws: Draws, baseline: Any, average: Array, *data: Any, max_plate_nesting: int, **kwargs: Any
) -> Centring:
    """See `ppl_vae.inference.objectives.parts.baselines.centring`."""
    scored = [site for site in draws.guide.values() if site.local and site.needs_score_function]
    if not scored:
        raise ValueError(
            "baseline should be None where no latent needs the score function, was "
            f"{name_of(baseline)} for a guide whose draws are all reparametrised"
        )
    predicted = jnp.zeros(())
    if isinstance(baseline, eqx.Module):
        network: Any = baseline
        predicted = _predicted(network(*data, **kwargs), scored[0].log_prob.shape[-1])
    return Centring(average, predicted, _scale(draws), _counted(scored, max_plate_nesting))


def _predicted(value: Any, n: int) -> Array:
    shape = tuple(value.shape) if isinstance(value, jax.Array) else None
    if shape not in ((n,), (n, 1)):
        raise ValueError(
            f"baseline should be a network that gives each datum a number, shape ({n},) or "
            f"({n}, 1), gave {type(value).__name__ if shape is None else f'shape {shape}'}"
        )
    flat: Array = value.reshape(n)
    return flat


def _scale(draws: Draws) -> float | Array:
    latents = [site for site in draws.guide.values() if not site.observed]
    sites = [site for site in (*draws.model.values(), *latents) if site.local]
    first = sites[0]
    for site in sites:
        if not same(site.scale, first.scale):
            raise ValueError(
                "baseline should be None for sites with scales of their own, had "
                f"{first.scale} ({first.name!r}) and {site.scale} ({site.name!r})"
            )
    return first.scale


def _counted(scored: list[Site], max_plate_nesting: int) -> Array:
    total = jnp.zeros(())
    for site in scored:
        mask = jnp.asarray(True if site.mask is None else site.mask)
        total = total + per_datum(mask.astype(site.log_prob.dtype), max_plate_nesting)
    return (total > 0).astype(scored[0].log_prob.dtype)


def check_baseline(baseline: Any) -> None:
    """See `ppl_vae.inference.objectives.parts.baselines.check_baseline`."""
    if baseline is None or isinstance(baseline, eqx.Module):
        return
    if not (isinstance(baseline, str) and baseline == "average"):
        raise ValueError(
            f"baseline should be None, 'average' or an equinox.Module, was {name_of(baseline)}"
        )


def name_of(baseline: Any) -> str:
    """See `ppl_vae.inference.objectives.parts.baselines.name_of`."""
    if isinstance(baseline, type):
        return f"the class {baseline.__name__}"
    return type(baseline).__name__ if isinstance(baseline, eqx.Module) else repr(baseline)


def description(baseline: Any) -> str | None:
    """See `ppl_vae.inference.objectives.parts.baselines.description`."""
    if not isinstance(baseline, eqx.Module) or isinstance(baseline, Network):
        return None
    return " ".join(repr(baseline).split())
