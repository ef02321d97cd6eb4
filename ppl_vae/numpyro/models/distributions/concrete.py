"""Concrete distributions as densities of logits, as `ppl_vae.models.distributions.concrete`."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax, nn
from numpyro.distributions import (
    BernoulliLogits,
    BernoulliProbs,
    CategoricalLogits,
    CategoricalProbs,
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    constraints,
)


class _Relaxation(Distribution):  # type: ignore[misc]
    """What both share: logits alpha, a temperature t, and values that never saturate."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    reparametrized_params = ("logits",)
    pytree_data_fields = ("temperature", "logits")
    event_dims = 0

    def __init__(self, temperature: float | Array, logits: Array) -> None:
        self.temperature, self.logits = temperature, logits
        split = logits.ndim - self.event_dims
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return True

    @classmethod
    def seen(cls, value: Array, hard: bool) -> Array:
        """What a program is given: z, or the nearest discrete value with the gradient of z."""
        z = cls.relaxed(value)
        return cls.nearest(value) + (z - lax.stop_gradient(z)) if hard else z

    @abstractmethod
    def from_noise(self, noise: Array) -> Array:
        """The draw that this noise makes."""

    @staticmethod
    @abstractmethod
    def relaxed(value: Array) -> Array:
        """The relaxed variable z of this logit."""

    @staticmethod
    @abstractmethod
    def nearest(value: Array) -> Array:
        """The discrete value that is nearest to z."""


class BinConcrete(_Relaxation):
    """The logit y of a relaxed Bernoulli variable sigmoid(y), y = (alpha + L) / t, L logistic.

        log p(y) = log t + log sigmoid(d) + log sigmoid(-d),   d = alpha - t y

    Args:
        temperature: t > 0.
        logits: alpha, the log odds of 1, of any shape.
    """

    support = constraints.real

    def from_noise(self, noise: Array) -> Array:
        return (self.logits + noise) / self.temperature

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.from_noise(jax.random.logistic(key, self.shape(sample_shape)))

    def log_prob(self, value: Array) -> Array:
        difference = self.logits - self.temperature * value
        log_sigmoids = nn.log_sigmoid(difference) + nn.log_sigmoid(-difference)
        return jnp.log(self.temperature) + log_sigmoids

    @staticmethod
    def relaxed(value: Array) -> Array:
        return nn.sigmoid(value)

    @staticmethod
    def nearest(value: Array) -> Array:
        return (value > 0).astype(value.dtype)


class ExpConcrete(_Relaxation):
    """The logarithm y of a relaxed one-hot vector, y = log softmax((alpha + G) / t), G Gumbel.

        log p(y) = log (C - 1)! + (C - 1) log t + sum_c log softmax(alpha - t y)_c

    It is a density of the log odds y_c - y_C, c < C, and equals log p(z) + sum_c log z_c of the
    relaxed vector z = exp(y).

    Args:
        temperature: t > 0.
        logits: alpha, log probabilities but for a constant, shape (..., C).
    """

    support = constraints.real_vector
    event_dims = 1

    def from_noise(self, noise: Array) -> Array:
        return nn.log_softmax((self.logits + noise) / self.temperature, axis=-1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.from_noise(jax.random.gumbel(key, self.shape(sample_shape)))

    def log_prob(self, value: Array) -> Array:
        size = self.logits.shape[-1]
        constant = math.lgamma(size) + (size - 1) * jnp.log(self.temperature)
        return constant + nn.log_softmax(self.logits - self.temperature * value).sum(-1)

    @staticmethod
    def relaxed(value: Array) -> Array:
        return jnp.exp(value)

    @staticmethod
    def nearest(value: Array) -> Array:
        return nn.one_hot(value.argmax(-1), value.shape[-1], dtype=value.dtype)


RELAXATIONS: dict[str, type[_Relaxation]] = {"Bernoulli": BinConcrete, "Categorical": ExpConcrete}

_KINDS = {
    "Bernoulli": (BernoulliLogits, BernoulliProbs),
    "Categorical": (CategoricalLogits, CategoricalProbs),
}


def kind_of(fn: Distribution) -> str:
    """What a site is drawn from: a key of `RELAXATIONS`, "continuous", or another discrete kind."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    for kind, classes in _KINDS.items():
        if isinstance(fn, classes):
            return kind
    support: Any = fn.support
    return type(fn).__name__ if support.is_discrete else "continuous"


def relax(fn: Any, temperature: float | Array) -> Any:
    """The relaxation of a Bernoulli or categorical distribution, with its shape and its mask."""
    if isinstance(fn, Independent):
        return relax(fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return relax(fn.base_dist, temperature).mask(fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return relax(fn.base_dist, temperature).expand(fn.batch_shape)
    return RELAXATIONS[kind_of(fn)](temperature, jnp.asarray(fn.logits))
