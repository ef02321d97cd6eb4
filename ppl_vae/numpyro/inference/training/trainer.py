"""See `ppl_vae.inference.training.trainer`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.numpyro.inference.objectives.parts.base import Objective
from ppl_vae.numpyro.inference.training import faults
from ppl_vae.numpyro.inference.training.optimizers import Stepping, Weights
from ppl_vae.numpyro.inference.training.placement import Placement
from ppl_vae.numpyro.inference.training.steps import NETWORK, Steps, place_of
from ppl_vae.numpyro.models.base import Model, buffers, parameters, with_parameters
from ppl_vae.shared.io.stored_weights import check_arrays
from ppl_vae.shared.training.checkpoints import Checkpoint, part
from ppl_vae.shared.training.faults import nothing_left
from ppl_vae.shared.training.turns import Turn

Step: TypeAlias = tuple[int, Turn, int]
"""The index of a turn, the turn, and the index of a step in it."""


class Trainer:
    """See `ppl_vae.inference.training.trainer.Trainer`."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        arrays: tuple[Any, ...],
        place: Placement,
        batch_size: int,
        stepping: Stepping,
    ) -> None:
        self.model, self.objective, self.arrays = model, objective, arrays
        self.place, self.batch_size = place, batch_size
        self.on_nan = stepping.on_nan
        own = parameters(model)
        if not own:
            raise ValueError("model should have a parameter to train, had none")
        networks = {NETWORK + name: value for name, value in objective.network_weights().items()}
        self.weights = place.put(own | networks)
        faults.check_finite_parameters(self.weights)
        self.buffers = place.put(buffers(model))
        dtype = next(iter(self.weights.values())).dtype
        self.batches = Batches(arrays, place.whole, dtype)
        groups: dict[str, list[str]] = {}
        for name in self.weights:
            groups.setdefault(objective.group_of(name), []).append(name)
        self.steps = Steps(model, objective, self.batches, groups, stepping, place)
        self.optimizer = place.put(self.steps.start(self.weights))
        self.state = place.put(objective.state())
        self.run = jax.jit(self.steps.run, donate_argnums=0, static_argnames="turns")
        self.new = True
        place.check_sizes(len(self._order(np.random.default_rng(0))[0]))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint.

        There is no random state: an epoch's randomness depends on the seed and the epoch alone.
        """
        self.new = False
        weights = part(checkpoint.arrays, "model")
        weights |= {NETWORK + n: a for n, a in part(checkpoint.arrays, "network").items()}
        self._check_networks(weights)
        check_arrays("run", self.checkpoint({}, 0).arrays, checkpoint.arrays)
        self.weights = self.place.put({name: weights[name] for name in self.weights})
        self.buffers = self.place.put({name: weights[name] for name in self.buffers})
        saved = part(checkpoint.arrays, "objective")
        self.state = self.place.put({name: saved[name] for name in self.state})
        leaves = part(checkpoint.arrays, "optimizer")
        new = [leaves[str(number)] for number in range(len(leaves))]
        self.optimizer = self.place.put(jax.tree.unflatten(jax.tree.structure(self.optimizer), new))

    def _check_networks(self, weights: Mapping[str, np.ndarray]) -> None:
        """Check that the objective has the networks of the checkpoint."""
        own, saved = (
            {name: value.shape for name, value in arrays.items() if name.startswith(NETWORK)}
            for arrays in (self.weights, weights)
        )
        if own != saved:
            raise ValueError(
                f"objective should have the networks of the run to resume, whose weights are "
                f"{saved}, had {own}"
            )

    def checkpoint(self, run: dict[str, Any], epoch: int) -> Checkpoint:
        """Return the checkpoint after `epoch`."""
        arrays = {}
        for name, value in (self.weights | self.buffers).items():
            own = name.removeprefix(NETWORK)
            arrays[f"model.{name}" if own == name else f"network.{own}"] = np.array(value)
        arrays |= {f"objective.{name}": np.array(value) for name, value in self.state.items()}
        for number, leaf in enumerate(jax.tree.leaves(self.optimizer)):
            arrays[f"optimizer.{number}"] = np.array(leaf)
        return Checkpoint(run, epoch, arrays, {})

    def trained(self) -> Any:
        """Return the model with the current weights."""
        return with_parameters(self.model, self.place.here(self.weights | self.buffers))

    def trained_objective(self, objective: Objective) -> Objective:
        """Return the objective with the current state and network weights."""
        own = {n.removeprefix(NETWORK): w for n, w in self.weights.items() if n.startswith(NETWORK)}
        here = self.place.here(own), self.place.here(self.state)
        return objective.with_network_weights(here[0]).with_state(here[1])

    @property
    def kept(self) -> Any:
        """The state that steps change."""
        return self.weights, self.optimizer, self.buffers, self.state

    @kept.setter
    def kept(self, kept: Any) -> None:
        self.weights, self.optimizer, self.buffers, self.state = kept

    def epoch(self, epoch: int, seed: int) -> dict[str, float]:
        """Train for one pass over the data; return the row to report.

        Raises:
            faults.Fault: A loss or a gradient was not finite; with `on_nan="skip"`, in every batch.
        """
        turns = self.objective.with_state(self.state).turns()
        order = np.random.default_rng([seed, epoch])
        indices = self._order(order)
        again = self._order(order) if any(turn.window is not None for turn in turns) else None
        # Batches of one size are steps of a loop; a smaller last batch is a separate step.
        loop, rest = _of_one_size(indices)
        others = None if again is None else _of_one_size(again)[0]
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        data = self.batches.arrays
        if self.new:
            inputs = (self.buffers, self.state, data, indices[0], key, epoch)
            faults.check_gradients(lambda *a: self.steps.loss(*a)[0], self.weights, *inputs)
        run, found = self.run(self.kept, data, loop, rest, others, key, epoch, turns=turns)
        self.kept, health = run
        losses, taken, good = (np.asarray(numbers) for numbers in found)
        used = good.all(axis=1)  # batches in which every step changed something
        if not (used.any() if self.on_nan == "skip" else used.all()):
            number, which = (int(place[0]) for place in np.nonzero(~good))
            step = (which, turns[which], int(taken[number, which]) - 1)
            given = (indices[number], others, jax.random.fold_in(key, number))
            where = f"epoch {epoch}, batch {number + 1} of {len(indices)}"
            raise self._fault(epoch, where, losses[number, which], step, given)
        if self.new:
            faults.warn_of_zeros(health.has_gradient)
            self.new = False
        ended = self.objective.with_state(self.state).after_epoch(self.trained(), *self.arrays)
        self.state = self.state | self.place.put(ended)
        row = {"loss": float(losses[used, -1].mean(dtype=np.float64))}
        return row | ({"skipped": float((~good).sum())} if self.on_nan == "skip" else {})

    def _fault(self, epoch: int, where: str, loss: float, step: Step, given: Any) -> faults.Fault:
        """Return the fault of a step.

        Args:
            epoch: Epoch number.
            where: The epoch and the batch, in words.
            loss: The loss of the step.
            step: The first arguments of `place_of`.
            given: The other arguments of `place_of`.
        """
        kept = self.place.here((*self.kept, self.batches.arrays))
        weights, _, statistics, state, data = kept
        steps = replace(self.steps, place=self.place.alone())
        index, key = place_of(*step, *jax.tree.map(jnp.asarray, given))
        group = step[1].group
        names = weights if group is None else steps.groups[group]

        def loss_of(part: Weights) -> Array:
            return steps.loss({**weights, **part}, statistics, state, data, index, key, epoch)[0]

        words = faults.diagnose(loss, loss_of, {name: weights[name] for name in names}, where)
        if self.on_nan == "skip":
            words = nothing_left(epoch, words)
        return faults.Fault(words, index, steps.batch(data, index, key)[0])

    def _order(self, generator: np.random.Generator) -> list[np.ndarray]:
        """Return the indices of each batch of all data in a random order."""
        return self.objective.batches(self.batch_size, generator, *self.arrays)


def _of_one_size(indices: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the batches of the first one's size as an array, and the others."""
    size = len(indices[0])
    same = [index for index in indices if len(index) == size]
    return np.stack(same), [index for index in indices if len(index) != size]
