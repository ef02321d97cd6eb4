"""The compiled epoch of `fit`: all turns of all batches."""

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
"""Prefix of the names of the objective's network weights; no model weight has it."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of an epoch, as pure functions of the state of a run.

    Attributes:
        model: The model/guide pair; its arrays are replaced by those of the state.
        objective: The objective; its networks and state are replaced likewise.
        batches: The data.
        groups: The names of the weights of each parameter group.
        stepping: How weights are updated from gradients.
        place: The devices of the run.
    """

    model: Model
    objective: Objective
    batches: Batches
    groups: Mapping[str, Sequence[str]]
    stepping: Stepping
    place: Placement

    def start(self, weights: Weights) -> dict[str, Any]:
        """Return the initial optimizer state of each group; groups count their own steps."""
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
        """Return the loss per datum of the batch at `index`, and new buffers and state."""
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
        """Return the batch at `index`, and the key of the latent draws."""
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
        """Take all turns of all batches.

        Returns:
            The state and status after them, and arrays (batches, turns) of the last loss of each
            turn, its number of steps, and whether all of these were finite.
        """

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
        """Take the steps of a turn; return the state and status, and the numbers of `run`.

        A non-finite step ends the turn, as the mean loss of its window would not be finite.
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
        """Update the parameters of a group (None: all) and return the loss before the update."""
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
    """Return indices and key of step number `taken` of a turn, derived from the batch's."""
    if turn.window is None or others is None:
        return index, jax.random.fold_in(key, which) if which else key
    for_turn = jax.random.fold_in(key, which)
    for_choice, for_step = jax.random.split(jax.random.fold_in(for_turn, taken))
    return others[jax.random.randint(for_choice, (), 0, len(others))], for_step
