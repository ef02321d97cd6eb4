"""See `ppl_vae.inference.training.optimizers`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
import optax
from jax import Array

from ppl_vae.shared.training import stepping
from ppl_vae.shared.training.optimizers import SGD, Adam, Adamax, AdamW, Optimizer

Weights: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Stepping(stepping.Stepping):
    """See `ppl_vae.shared.training.stepping.Stepping`; with the update rules of optax."""

    def start(self, weights: Mapping[str, Array]) -> Any:
        """Return the initial optimizer state of these weights."""
        return _rule(self.optimizer).init(dict(weights))

    def step(
        self, epoch: int | Array, weights: Weights, gradient: Weights, state: Any
    ) -> tuple[Weights, Any]:
        """Return the weights after a step, and the new optimizer state."""
        direction, state = _rule(self.optimizer).update(gradient, state, weights)
        lr = self.lr_at(epoch)
        return {name: weight - lr * direction[name] for name, weight in weights.items()}, state

    def clipped(self, gradient: Weights) -> Weights:
        """Return the gradient with its global norm clipped to `clip_norm`."""
        if self.clip_norm is None:
            return gradient
        norm = jnp.sqrt(sum(jnp.square(part).sum() for part in gradient.values()))
        factor = jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))  # as torch.nn.utils does
        return {name: factor * part for name, part in gradient.items()}


def _rule(optimizer: Optimizer) -> optax.GradientTransformation:
    """Return the update rule of the settings, without the learning rate."""
    assert isinstance(optimizer, SGD | Adam | AdamW | Adamax)
    weight_decay = optimizer.weight_decay
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    if isinstance(optimizer, SGD):
        momentum, nesterov = optimizer.momentum, optimizer.nesterov
        return optax.chain(decay, optax.trace(momentum, nesterov) if momentum else optax.identity())
    moments = optax.scale_by_adamax if isinstance(optimizer, Adamax) else optax.scale_by_adam
    scale = moments(*optimizer.betas, optimizer.eps)
    return optax.chain(*((scale, decay) if isinstance(optimizer, AdamW) else (decay, scale)))
