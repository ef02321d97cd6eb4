"""Whether the steps of a compiled program are at fault, and what they change then."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array


class StepStatus(NamedTuple):
    """What is known of the steps so far.

    Attributes:
        good: Whether loss and gradient of the last step were finite.
        active: Whether a step may change anything.
        skips: Whether steps go on after one at fault.
        has_gradient: Of each weight, by name, whether a gradient of it was not zero.
    """

    good: Array
    active: Array
    skips: Array
    has_gradient: dict[str, Array]

    @classmethod
    def at_first(cls, names: Sequence[str], skips: bool) -> Self:
        """Before the first step of an epoch."""
        no, yes = jnp.array(False), jnp.array(True)
        return cls(yes, yes, jnp.array(skips), dict.fromkeys(names, no))

    def after(self, loss: Array, gradient: Mapping[str, Array]) -> Self:
        """The same after a step with this loss and this gradient."""
        # Of all that NaN, infinity and zero show in, XLA adds up fastest on a CPU.
        sizes = {name: jnp.abs(part).sum() for name, part in gradient.items()}
        good = jnp.isfinite(jnp.stack([loss, *sizes.values()])).all()
        has_gradient = {name: self.has_gradient[name] | (size > 0) for name, size in sizes.items()}
        active = self.active & (good | self.skips)
        return self._replace(
            good=good, active=active, has_gradient={**self.has_gradient, **has_gradient}
        )

    def choose(self, new: Any, old: Any) -> Any:
        """The state after the step, or the one before it if the step changes nothing."""
        changes = self.active & self.good
        return jax.tree.map(lambda a, b: jnp.where(changes, a, b), new, old)
