"""See `ppl_vae.models.distributions.concrete`."""

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
    """See `ppl_vae.models.distributions.concrete._Relaxation`."""

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
    def site_value(cls, value: Array, hard: bool) -> Array:
        """See `ppl_vae.models.distributions.concrete._Relaxation.site_value`."""
        z = cls.relaxed(value)
        return cls.nearest(value) + (z - lax.stop_gradient(z)) if hard else z

    @abstractmethod
    def from_noise(self, noise: Array) -> Array:
        """Return the draw for given logistic or Gumbel noise."""

    @staticmethod
    @abstractmethod
    def relaxed(value: Array) -> Array:
        """Return the relaxed variable z of this logit."""

    @staticmethod
    @abstractmethod
    def nearest(value: Array) -> Array:
        """Return the discrete value nearest to z."""


class BinConcrete(_Relaxation):
    """See `ppl_vae.models.distributions.concrete.BinConcrete`."""

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
    """See `ppl_vae.models.distributions.concrete.ExpConcrete`."""

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
    """See `ppl_vae.models.distributions.concrete.kind_of`."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    for kind, classes in _KINDS.items():
        if isinstance(fn, classes):
            return kind
    support: Any = fn.support
    return type(fn).__name__ if support.is_discrete else "continuous"


def relax(fn: Any, temperature: float | Array) -> Any:
    """See `ppl_vae.models.distributions.concrete.relax`."""
    if isinstance(fn, Independent):
        return relax(fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return relax(fn.base_dist, temperature).mask(fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return relax(fn.base_dist, temperature).expand(fn.batch_shape)
    return RELAXATIONS[kind_of(fn)](temperature, jnp.asarray(fn.logits))
