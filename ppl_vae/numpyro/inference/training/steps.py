"""The compiled steps of `fit`: all turns of all batches of an epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.numpyro.inference.objectives.parts.base import Objective, SharedState
from ppl_vae.numpyro.inference.training.optimizers import Stepping, Weights
from ppl_vae.numpyro.inference.training.placement import Placement
from ppl_vae.numpyro.inference.training.step_status import StepStatus
from ppl_vae.numpyro.models.base import Model, with_parameters
from ppl_vae.numpyro.models.networks.layers import training
from ppl_vae.shared.training.turns import Turn

NETWORK = "network:"
"""How the names of the objective's weights begin, and no name of a model's."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What is run in an epoch, as functions of the state of a run.

    Attributes:
        model: The pair, whose arrays are replaced by those of the state.
        objective: The objective, likewise.
        batches: Makes batches of the data.
        groups: The names of the weights of each group.
        stepping: How weights follow their gradients.
        place: Whether several devices share a batch.
    """

    model: Model
    objective: Objective
    batches: Batches
    groups: Mapping[str, Sequence[str]]
    stepping: Stepping
    place: Placement

    def start(self, weights: Weights) -> dict[str, Any]:
        """The optimizer's state of each group, whose count of steps need not be that of others."""
        return {
            group: self.stepping.start({name: weights[name] for name in names})
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
        batch, for_draws = self.batch(data, index, key)
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

    def batch(
        self, data: tuple[Array, ...], index: Array, key: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """The batch at `index`, and the key of what the pair draws."""
        for_pixels, for_draws = jax.random.split(key)
        return self.place.shared(self.batches.take(data, index, for_pixels)), for_draws

    def run(
        self,
        kept: Any,
        data: Any,
        loop: Array,
        rest: list[Array],
        others: Array | None,
        key: Array,
        epoch: Array,
        turns: tuple[Turn, ...],
    ) -> Any:
        """All turns of all batches; of each the last loss, the number of its steps, and whether
        none of these was at fault."""

        def through(run: Any, batch: tuple[Array, Array]) -> Any:
            number, index = batch
            inputs = (index, others, jax.random.fold_in(key, number))
            found = []
            for which, turn in enumerate(turns):
                run, *last = self._take(which, turn, run, data, inputs, epoch)
                found.append(last)
            return run, tuple(jnp.stack(numbers) for numbers in zip(*found, strict=True))

        run = (kept, StepStatus.at_first(list(kept[0]), self.stepping.on_nan == "skip"))
        run, found = lax.scan(through, run, (jnp.arange(len(loop)), loop))
        for number, index in enumerate(rest, start=len(loop)):
            run, last = through(run, (jnp.array(number), index))
            found = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), found, last)
        return run, found

    def _take(
        self, which: int, turn: Turn, run: Any, data: Any, inputs: Any, epoch: Array
    ) -> tuple[Any, Array, Array, Array]:
        """The run after the steps of a batch's turn, and what `run` returns of it.

        A step at fault ends the turn, whose window it would leave without a mean.
        """

        def step(run: Any, taken: Array) -> Any:
            index, key = place_of(which, turn, taken, *inputs)
            return self._step(run, turn.group, data, index, key, epoch)

        if turn.window is None:
            run, loss = step(run, jnp.array(0))
            return run, loss, jnp.array(1), run[1].good

        def going(carry: Any) -> Any:
            (_, health), losses, taken = carry
            return (taken == 0) | (health.good & health.active & ~turn.over(losses, taken))

        def again(carry: Any) -> Any:
            run, losses, taken = carry
            run, loss = step(run, taken)
            return run, losses.at[taken].set(loss), taken + 1

        start = (run, jnp.zeros(turn.max_steps), jnp.array(0))
        run, losses, taken = lax.while_loop(going, again, start)
        return run, losses[taken - 1], taken, run[1].good

    def _step(
        self, run: Any, group: str | None, data: Any, index: Array, key: Array, epoch: Array
    ) -> Any:
        """A step of the parameters of a group (None: of all), and the loss before it."""
        old, health = run
        weights, states, buffers, state = old
        groups = self.groups if group is None else {group: self.groups[group]}

        def loss_of(part: Weights) -> Any:
            return self.loss({**weights, **part}, buffers, state, data, index, key, epoch)

        part = {name: weights[name] for names in groups.values() for name in names}
        (loss, moved_on), gradient = jax.value_and_grad(loss_of, has_aux=True)(part)
        health = health.after(loss, gradient)
        gradient = self.stepping.clipped(gradient)
        for name, members in groups.items():
            own, slopes = ({m: of[m] for m in members} for of in (weights, gradient))
            moved, kept = self.stepping.step(epoch, own, slopes, states[name])
            weights, states = {**weights, **moved}, {**states, name: kept}
        return (health.choose((weights, states, *moved_on), old), health), loss


def place_of(
    which: int, turn: Turn, taken: int | Array, index: Array, others: Array | None, key: Array
) -> tuple[Array, Array]:
    """Indices and key of the step that follows `taken` ones in a turn, from those of the batch."""
    if turn.window is None or others is None:
        return index, jax.random.fold_in(key, which) if which else key
    for_turn = jax.random.fold_in(key, which)
    for_choice, for_step = jax.random.split(jax.random.fold_in(for_turn, taken))
    return others[jax.random.randint(for_choice, (), 0, len(others))], for_step
