"""See `ppl_vae.inference.objectives.parts.baselines`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.draws import Draws, Site, per_datum
from ppl_vae.numpyro.inference.objectives.parts.kl import same
from ppl_vae.numpyro.models.networks.layers import MLP, Linear, Network

Baseline: TypeAlias = Literal["average"] | eqx.Module | None
DECAY = 0.9
"""Weight of the past in the decaying average of the signal."""


class BaselineNet(Network):
    """C(x) = w h(x) + b with an `MLP` h, as `ppl_vae.inference.BaselineNet`.

    Args:
        in_dims: Size of x, or the sizes of several inputs.
        hidden: Sizes of the hidden layers.
        activation: Of the hidden layers.
        key: Random key of the initial weights.
    """

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
    """The baseline c + C(x) of a batch, and what is learned of it from the signal there.

    A signal, of shape (K, N), is that of each particle and datum with its scale; c and C are what
    is expected of it without, so that they do not depend on the size of batch and data set.

    Attributes:
        average: c, a scalar; NaN before the first step.
        predicted: C(x), shape (N,), or 0 without a network.
        scale: What a datum counts for, broadcasts against (K, N).
        counted: 1 where a draw has a score and 0 where it is masked, broadcasts against (K, N).
    """

    average: Array
    predicted: Array
    scale: float | Array
    counted: Array

    @property
    def baseline(self) -> Array:
        """What is taken from the signal."""
        return self.scale * self._expected()

    def error(self, signal: Array) -> Array:
        """0, with the gradient of the squared signal that remains, summed over the data.

        It is averaged over particles. The square itself, which is not reported, may overflow.
        """
        remains = lax.stop_gradient(signal / self.scale - self._expected())
        change = self.predicted - lax.stop_gradient(self.predicted)
        return -2 * (self.scale * self.counted * remains * change).mean(-2).sum()

    def next_average(self, signal: Array) -> Array:
        """c for the step after this one; a masked datum does not move it."""
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
    """The baseline of a batch.

    Args:
        draws: The draws for the batch.
        baseline: "average" or a network.
        average: c.
        data: Arguments of the programs, and of the network.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: no latent has a score, sites have scales of their own, or the network gives
            something else than a number for each datum.
    """
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
    """The scale of a datum, which is that of all of its sites."""
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
    """1 where one of the sites is not masked, and 0 elsewhere."""
    total = jnp.zeros(())
    for site in scored:
        mask = jnp.asarray(True if site.mask is None else site.mask)
        total = total + per_datum(mask.astype(site.log_prob.dtype), max_plate_nesting)
    return (total > 0).astype(scored[0].log_prob.dtype)


def check_baseline(baseline: Any) -> None:
    """Raises a ValueError unless `baseline` is what `ELBO` may be given."""
    if baseline is None or isinstance(baseline, eqx.Module):
        return
    if not (isinstance(baseline, str) and baseline == "average"):
        raise ValueError(
            f"baseline should be None, 'average' or an equinox.Module, was {name_of(baseline)}"
        )


def name_of(baseline: Any) -> str:
    """What an error calls it."""
    if isinstance(baseline, type):
        return f"the class {baseline.__name__}"
    return type(baseline).__name__ if isinstance(baseline, eqx.Module) else repr(baseline)


def description(baseline: Any) -> str | None:
    """What tells a network from another one, in a line; of a `Network` its arguments do."""
    if not isinstance(baseline, eqx.Module) or isinstance(baseline, Network):
        return None
    return " ".join(repr(baseline).split())
