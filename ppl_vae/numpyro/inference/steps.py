"""The compiled steps of `fit`: all turns of all batches of an epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.numpyro.inference.objective import Objective, SharedState
from ppl_vae.numpyro.models.base import Model, with_parameters
from ppl_vae.numpyro.models.layers import training
from ppl_vae.schedules import Schedule
from ppl_vae.turns import Turn

Weights: TypeAlias = dict[str, Array]
NETWORK = "network:"
"""How the names of the objective's weights begin, and no name of a model's."""
ADAM = optax.scale_by_adam()


@dataclass(frozen=True, eq=False)
class Steps:
    """What is run in an epoch, as functions of the state of a run.

    Attributes:
        model: The pair, whose arrays are replaced by those of the state.
        objective: The objective, likewise.
        batches: Makes batches of the data.
        groups: The names of the weights of each group.
        lr: Step size.
    """

    model: Model
    objective: Objective
    batches: Batches
    groups: Mapping[str, Sequence[str]]
    lr: float | Schedule

    def start(self, weights: Weights) -> dict[str, Any]:
        """Adam's state of each group, whose count of steps need not be that of others."""
        return {
            group: ADAM.init({name: weights[name] for name in names})
            for group, names in self.groups.items()
        }

    def loss(
        self,
        weights: Weights,
        buffers: Weights,
        state: Weights,
        data: tuple[Array, ...],
        index: Array,
        key: Array,
        epoch: int | Array,
    ) -> tuple[Array, tuple[Weights, Weights]]:
        """The loss per datum of the batch at `index`; for the next, buffers and objective state."""
        for_pixels, for_draws = jax.random.split(key)
        batch = self.batches.take(data, index, for_pixels)
        model = with_parameters(self.model, weights | buffers)
        own = {n.removeprefix(NETWORK): w for n, w in weights.items() if n.startswith(NETWORK)}
        held = SharedState()
        with training(), held:
            total, state = (
                self.objective.at(epoch)
                .with_network_weights(own)
                .with_state(state)
                .loss_and_state(model.model, model.guide, *batch, key=for_draws)
            )
        moved = {name: held.values[name]["value"] for name in buffers}
        return total / len(index), (moved, state)

    def run(
        self,
        run: Any,
        data: Any,
        loop: Array,
        rest: list[Array],
        others: Array | None,
        key: Array,
        epoch: Array,
        turns: tuple[Turn, ...],
    ) -> Any:
        """All turns of all batches; of each the last loss and the number of its steps."""

        def through(run: Any, batch: tuple[Array, Array]) -> Any:
            number, index = batch
            inputs = (index, others, jax.random.fold_in(key, number))
            found = []
            for which, turn in enumerate(turns):
                run, *last = self._take(which, turn, run, data, inputs, epoch)
                found.append(last)
            losses, taken = (jnp.stack(numbers) for numbers in zip(*found, strict=True))
            return run, (losses, taken)

        run, found = lax.scan(through, run, (jnp.arange(len(loop)), loop))
        for number, index in enumerate(rest, start=len(loop)):
            run, last = through(run, (jnp.array(number), index))
            found = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), found, last)
        return run, found

    def _take(
        self, which: int, turn: Turn, run: Any, data: Any, inputs: Any, epoch: Array
    ) -> tuple[Any, Array, Array]:
        """The run after the steps of a batch's turn, the last one's loss, and their number."""

        def step(run: Any, taken: Array) -> Any:
            index, key = place_of(which, turn, taken, *inputs)
            return self._step(run, turn.group, data, index, key, epoch)

        if turn.window is None:
            run, loss = step(run, jnp.array(0))
            return run, loss, jnp.array(1)

        def going(carry: Any) -> Any:
            (_, alive), losses, taken = carry
            return (taken == 0) | (alive & ~turn.over(losses, taken))

        def again(carry: Any) -> Any:
            run, losses, taken = carry
            run, loss = step(run, taken)
            return run, losses.at[taken].set(loss), taken + 1

        start = (run, jnp.zeros(turn.most), jnp.array(0))
        run, losses, taken = lax.while_loop(going, again, start)
        return run, losses[taken - 1], taken

    def _step(
        self, run: Any, group: str | None, data: Any, index: Array, key: Array, epoch: Array
    ) -> Any:
        """A step of the parameters of a group (None: of all), and the loss before it."""
        old, alive = run
        weights, adam, buffers, state = old
        groups = self.groups if group is None else {group: self.groups[group]}

        def loss_of(part: Weights) -> Any:
            return self.loss({**weights, **part}, buffers, state, data, index, key, epoch)

        part = {name: weights[name] for names in groups.values() for name in names}
        (loss, moved_on), gradient = jax.value_and_grad(loss_of, has_aux=True)(part)
        lr = self.lr(epoch) if isinstance(self.lr, Schedule) else self.lr
        for name, members in groups.items():
            slopes = {member: gradient[member] for member in members}
            direction, moments = ADAM.update(slopes, adam[name])
            moved = {member: weights[member] - lr * direction[member] for member in members}
            weights, adam = {**weights, **moved}, {**adam, name: moments}
        # After a fault all stays as it was, for `_stop` to run the batch again.
        alive = alive & jnp.isfinite(loss)
        new = (weights, adam, *moved_on)
        return (jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old), alive), loss


def place_of(
    which: int, turn: Turn, taken: Array, index: Array, others: Array | None, key: Array
) -> tuple[Array, Array]:
    """Indices and key of the step that follows `taken` ones in a turn, from those of the batch."""
    if turn.window is None or others is None:
        return index, jax.random.fold_in(key, which) if which else key
    for_turn = jax.random.fold_in(key, which)
    for_choice, for_step = jax.random.split(jax.random.fold_in(for_turn, taken))
    return others[jax.random.randint(for_choice, (), 0, len(others))], for_step
