"""See `ppl_vae.models.networks.layers`.

Equinox modules serve as containers of arrays with torch's names, layouts and initialisation.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import check_batch, check_dropout, check_flag, check_hidden, check_whole


def _leaky_relu(x: Array) -> Array:
    return jnp.where(x > 0, x, 0.01 * x)  # torch has slope 0.01 at 0, jax.nn.leaky_relu 1


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "leaky_relu": _leaky_relu,
    "gelu": partial(jax.nn.gelu, approximate=False),  # as in torch
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


class _Arguments(dict[str, Any]):
    """Arguments as a static, hashable part of a module's structure, which jit compares."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def _structure(value: Any) -> Any:
    """Return `value` with the arrays of networks removed, so that only their structure remains."""
    if isinstance(value, eqx.Module):
        return eqx.filter(value, lambda _: False)
    if isinstance(value, list | tuple):
        return tuple(_structure(item) for item in value)
    return value


class Network(Configurable, eqx.Module):
    """See `ppl_vae.models.Network`; the random key is not among the arguments."""

    backend: ClassVar[str] = "numpyro"
    arguments: Mapping[str, Any] = eqx.field(static=True)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        given = getattr(self, "arguments", {})
        kept = _Arguments({name: _structure(v) for name, v in given.items() if name != "key"})
        object.__setattr__(self, "arguments", kept)
        return self


class Linear(eqx.Module):
    """Linear layer W x + c with torch's layout, (out_dim, in_dim), and torch's initialisation."""

    weight: Array
    bias: Array | None

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True, *, key: Array) -> None:
        bound = 1 / math.sqrt(in_dim)
        for_weight, for_bias = jax.random.split(key)
        self.weight = jax.random.uniform(for_weight, (out_dim, in_dim), minval=-bound, maxval=bound)
        self.bias = (
            jax.random.uniform(for_bias, (out_dim,), minval=-bound, maxval=bound) if bias else None
        )

    def __call__(self, *inputs: Array) -> Array:
        (x,) = inputs
        return self._plus_bias(x @ self.weight.T)

    def _plus_bias(self, value: Array) -> Array:
        return value if self.bias is None else value + self.bias


class ConcatLinear(Linear):
    """See `ppl_vae.models.ConcatLinear`; takes a keyword-only `key`."""

    in_dims: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self, in_dims: Sequence[int], out_dim: int, bias: bool = True, *, key: Array
    ) -> None:
        check_flag("bias", bias)
        super().__init__(sum(in_dims), out_dim, bias, key=key)
        self.in_dims = tuple(in_dims)

    def __call__(self, *inputs: Array) -> Array:
        (first, weight), *others = zip(inputs, self._split(), strict=True)
        out = self._plus_bias(first @ weight.T)
        for value, weight in others:
            out = out + value @ weight.T
        return out

    def _split(self) -> Iterable[Array]:
        ends = [sum(self.in_dims[: i + 1]) for i in range(len(self.in_dims) - 1)]
        return jnp.split(self.weight, ends, axis=1)


_is_training: ContextVar[bool] = ContextVar("training", default=False)


@contextmanager
def training() -> Iterator[None]:
    """Switch networks to training mode temporarily, as torch's `train()` does; used by `fit`."""
    token = _is_training.set(True)
    try:
        yield
    finally:
        _is_training.reset(token)


def _dropout(value: Array, rate: float) -> Array:
    if rate == 0 or not _is_training.get():
        return value
    keep = jax.random.bernoulli(numpyro.prng_key(), 1 - rate, value.shape)
    return jnp.where(keep, value / (1 - rate), 0.0)


class BatchNorm(eqx.Module):
    """See `ppl_vae.models.BatchNorm`.

    Inside a program `running_mean` and `running_var` are mutable sites, {"value": array}, whose
    arrays training mode replaces. Outside they are arrays and never change.
    """

    weight: Array
    bias: Array
    running_mean: Array | dict[str, Array]
    running_var: Array | dict[str, Array]

    def __init__(self, dim: int) -> None:
        check_whole("dim", dim, 1)
        self.weight, self.bias = jnp.ones(dim), jnp.zeros(dim)
        self.running_mean, self.running_var = jnp.zeros(dim), jnp.ones(dim)

    def __call__(self, x: Array) -> Array:
        if _is_training.get():
            flat = x.reshape(-1, x.shape[-1])
            check_batch(len(flat))
            mean, var = flat.mean(0), flat.var(0)
            _update_average(self.running_mean, mean)
            _update_average(self.running_var, flat.var(0, ddof=1))
        else:
            mean, var = _current(self.running_mean), _current(self.running_var)
        return (x - mean) / jnp.sqrt(var + 1e-5) * self.weight + self.bias


def _current(buffer: Array | dict[str, Array]) -> Array:
    return buffer["value"] if isinstance(buffer, dict) else buffer


def _update_average(buffer: Array | dict[str, Array], new: Array) -> None:
    if isinstance(buffer, dict):
        buffer["value"] = 0.9 * buffer["value"] + 0.1 * jax.lax.stop_gradient(new)


class MLP(Network):
    """See `ppl_vae.models.MLP`; takes a keyword-only `key`.

    Dropout takes its random key from the program (`handlers.seed`) that calls the network.
    """

    layers: tuple[Linear, ...]
    norms: tuple[BatchNorm, ...]
    out_dim: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    dropout_in: float = eqx.field(static=True)
    dropout_hidden: float = eqx.field(static=True)

    def __init__(
        self,
        in_dims: int | Sequence[int],
        hidden: Sequence[int],
        activation: str = "softplus",
        dropout: tuple[float, float] = (0.0, 0.0),
        batch_norm: bool = False,
        *,
        key: Array,
    ) -> None:
        in_dims = tuple(in_dims) if isinstance(in_dims, Sequence) else (in_dims,)
        for size in in_dims:
            check_whole("in_dims", size, 1)
        check_hidden(hidden)
        known = tuple(ACTIVATIONS)
        if activation not in known:
            raise ValueError(f"activation should be one of {known}, was {activation!r}")
        if not hidden and len(in_dims) > 1:
            raise ValueError(f"hidden should name a layer to join {len(in_dims)} inputs, was empty")
        self.out_dim = hidden[-1] if hidden else in_dims[0]
        layers: list[Linear] = []
        if hidden:
            first, *keys = jax.random.split(key, len(hidden))
            bias = not batch_norm
            layers.append(ConcatLinear(in_dims, hidden[0], bias, key=first))
            layers.extend(
                Linear(*sizes, bias, key=k) for sizes, k in zip(pairwise(hidden), keys, strict=True)
            )
        self.layers = tuple(layers)
        self.norms = tuple(BatchNorm(size) for size in hidden if batch_norm)
        self.activation = activation
        check_dropout(dropout)
        self.dropout_in, self.dropout_hidden = dropout

    def __call__(self, *inputs: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        h = tuple(_dropout(value, self.dropout_in) for value in inputs)
        for i, layer in enumerate(self.layers):
            value = self.norms[i](layer(*h)) if self.norms else layer(*h)
            h = (_dropout(activation(value), self.dropout_hidden),)
        return h[0]
