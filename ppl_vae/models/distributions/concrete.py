"""Concrete distributions: continuous relaxations of discrete ones, as densities of logits."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    TorchDistribution,
)
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, OneHotCategorical, constraints


class _Relaxation(TorchDistribution):
    """Base class of relaxations with logits alpha and temperature t; values never saturate."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True
    event_dims = 0

    def __init__(self, temperature: float | Tensor, logits: Tensor) -> None:
        self.temperature, self.logits = temperature, logits
        split = logits.dim() - self.event_dims
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        shape = torch.Size(batch_shape) + self.event_shape
        return type(self)(self.temperature, self.logits.expand(shape))

    @classmethod
    def site_value(cls, value: Tensor, hard: bool) -> Tensor:
        """Return the value of a relaxed site: z, or if `hard` the nearest discrete value.

        The discrete value has the gradient of z (straight-through).
        """
        z = cls.relaxed(value)
        return cls.nearest(value) + (z - z.detach()) if hard else z

    def _log_temperature(self) -> float | Tensor:
        t = self.temperature  # a tensor in a compiled step, where a schedule has no value
        return t.log() if isinstance(t, Tensor) else math.log(t)

    def _gumbel(self, sample_shape: Any) -> Tensor:
        empty = self.logits.new_empty(self._extended_shape(sample_shape))
        return -empty.exponential_().log()

    @staticmethod
    @abstractmethod
    def relaxed(value: Tensor) -> Tensor:
        """Return the relaxed variable z of this logit."""

    @staticmethod
    @abstractmethod
    def nearest(value: Tensor) -> Tensor:
        """Return the discrete value nearest to z."""


class BinConcrete(_Relaxation):
    """The logit y of a relaxed Bernoulli variable sigmoid(y), y = (alpha + L) / t, L logistic.

        log p(y) = log t + log sigmoid(d) + log sigmoid(-d),   d = alpha - t y

    It equals log p(z) + log z + log(1 - z) of the relaxed variable z = sigmoid(y).
    `torch.distributions.LogitRelaxedBernoulli` clips the logits of its draws at those of 1e-7, and
    its density overflows.

    References:
        Maddison, Mnih & Teh, "The concrete distribution: a continuous relaxation of discrete random
        variables", ICLR 2017, arXiv:1611.00712.

    Args:
        temperature: t > 0.
        logits: alpha, the log odds of 1, finite, of any shape.
    """

    support = constraints.real

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the draw for given logistic noise."""
        return (self.logits + noise) / self.temperature

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.from_noise(self._gumbel(sample_shape) - self._gumbel(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        difference = self.logits - self.temperature * value
        log_sigmoids = F.logsigmoid(difference) + F.logsigmoid(-difference)
        return log_sigmoids + self._log_temperature()

    @staticmethod
    def relaxed(value: Tensor) -> Tensor:
        return value.sigmoid()

    @staticmethod
    def nearest(value: Tensor) -> Tensor:
        return (value > 0).to(value)


class ExpConcrete(_Relaxation):
    """The logarithm y of a relaxed one-hot vector, y = log softmax((alpha + G) / t), G Gumbel.

        log p(y) = log (C - 1)! + (C - 1) log t + sum_c log softmax(alpha - t y)_c

    It is a density of the log odds y_c - y_C, c < C, and equals log p(z) + sum_c log z_c of the
    relaxed vector z = exp(y).

    References:
        Maddison, Mnih & Teh, "The concrete distribution: a continuous relaxation of discrete random
        variables", ICLR 2017, arXiv:1611.00712.

    Args:
        temperature: t > 0.
        logits: alpha, log probabilities up to a constant, finite, shape (..., C).
    """

    support = constraints.real_vector
    event_dims = 1

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the draw for given Gumbel noise."""
        return ((self.logits + noise) / self.temperature).log_softmax(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.from_noise(self._gumbel(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        size = self.logits.shape[-1]
        constant = math.lgamma(size) + (size - 1) * self._log_temperature()
        return (self.logits - self.temperature * value).log_softmax(-1).sum(-1) + constant

    @staticmethod
    def relaxed(value: Tensor) -> Tensor:
        return value.exp()

    @staticmethod
    def nearest(value: Tensor) -> Tensor:
        return F.one_hot(value.argmax(-1), value.shape[-1]).to(value)


RELAXATIONS: dict[str, type[_Relaxation]] = {
    "Bernoulli": BinConcrete,
    "Categorical": ExpConcrete,
    "OneHotCategorical": ExpConcrete,
}


def kind_of(fn: Distribution) -> str:
    """Return a key of `RELAXATIONS`, "continuous", or the name of another discrete distribution."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    for kind in (Bernoulli, Categorical, OneHotCategorical):
        if isinstance(fn, kind):
            return kind.__name__
    support: Any = fn.support
    return type(fn).__name__ if support.is_discrete else "continuous"


def relax(fn: Any, temperature: float | Tensor) -> Any:
    """Return the relaxation of a Bernoulli or categorical distribution, with its shape and mask."""
    if isinstance(fn, Independent):
        return relax(fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return relax(fn.base_dist, temperature).mask(fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return relax(fn.base_dist, temperature).expand(fn.batch_shape)
    return RELAXATIONS[kind_of(fn)](temperature, fn.logits)
