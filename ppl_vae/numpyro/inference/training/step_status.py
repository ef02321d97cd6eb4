"""Detection of non-finite steps inside a compiled epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array


class StepStatus(NamedTuple):
    """The status of the steps of an epoch so far.

    Attributes:
        good: Whether loss and gradient of the last step were finite.
        active: Whether steps may still change anything.
        skips: Whether training continues after a non-finite step.
        has_gradient: By weight name, whether any gradient was non-zero.
    """

    good: Array
    active: Array
    skips: Array
    has_gradient: dict[str, Array]

    @classmethod
    def at_first(cls, names: Sequence[str], skips: bool) -> Self:
        """Return the status before the first step of an epoch."""
        no, yes = jnp.array(False), jnp.array(True)
        return cls(yes, yes, jnp.array(skips), dict.fromkeys(names, no))

    def after(self, loss: Array, gradient: Mapping[str, Array]) -> Self:
        """Return the status after a step with this loss and gradient."""
        # A sum of absolute values reveals NaN, infinity and zero, and XLA's fastest on a CPU.
        sizes = {name: jnp.abs(part).sum() for name, part in gradient.items()}
        good = jnp.isfinite(jnp.stack([loss, *sizes.values()])).all()
        has_gradient = {name: self.has_gradient[name] | (size > 0) for name, size in sizes.items()}
        active = self.active & (good | self.skips)
        return self._replace(
            good=good, active=active, has_gradient={**self.has_gradient, **has_gradient}
        )

    def choose(self, new: Any, old: Any) -> Any:
        """Return the new state if the step takes effect, else the old one."""
        changes = self.active & self.good
        return jax.tree.map(lambda a, b: jnp.where(changes, a, b), new, old)
