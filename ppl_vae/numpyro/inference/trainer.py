"""The state of a run of `fit`, which its compiled `steps` change."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppl_vae.numpyro.inference import faults
from ppl_vae.numpyro.inference.batches import Batches
from ppl_vae.numpyro.inference.objective import Objective
from ppl_vae.numpyro.inference.steps import NETWORK, Steps, place_of
from ppl_vae.numpyro.models.base import Model, buffers, parameters, with_parameters
from ppl_vae.runs import Checkpoint, part
from ppl_vae.schedules import Schedule
from ppl_vae.turns import Turn


class Trainer:
    """The state of a run: weights, optimizer and objective."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        arrays: tuple[Any, ...],
        device: jax.Device,
        batch_size: int,
        lr: float | Schedule,
        seed: int,
    ) -> None:
        self.model, self.objective, self.arrays = model, objective, arrays
        self.device, self.batch_size, self.seed = device, batch_size, seed
        own = parameters(model)
        if not own:
            raise ValueError("model should have a parameter to train, had none")
        networks = {NETWORK + name: value for name, value in objective.network_weights().items()}
        self.weights = self._place(own | networks)
        faults.check_finite_parameters(self.weights)
        self.buffers = self._place(buffers(model))
        self.batches = Batches(arrays, device, next(iter(self.weights.values())).dtype)
        groups: dict[str, list[str]] = {}
        for name in self.weights:
            groups.setdefault(objective.group_of(name), []).append(name)
        self.steps = Steps(model, objective, self.batches, groups, lr)
        self.adam = self._place(self.steps.start(self.weights))
        self.state = self._place(objective.state())
        self.run = jax.jit(self.steps.run, donate_argnums=0, static_argnames="turns")
        self.new = True

    def start(self, checkpoint: Checkpoint | None) -> None:
        """Begins a run, or goes on where the checkpoint was made.

        There are no random states: order and draws of an epoch follow from the seed and its number.
        """
        if checkpoint is None:
            return
        self.new = False
        weights = part(checkpoint.arrays, "model")
        weights |= {NETWORK + n: a for n, a in part(checkpoint.arrays, "network").items()}
        self._check_networks(weights)
        self.weights = self._place({name: weights[name] for name in self.weights})
        self.buffers = self._place({name: weights[name] for name in self.buffers})
        saved = part(checkpoint.arrays, "objective")
        self.state = self._place({name: saved[name] for name in self.state})
        leaves = part(checkpoint.arrays, "optimizer")
        new = [leaves[str(number)] for number in range(len(leaves))]
        self.adam = self._place(jax.tree.unflatten(jax.tree.structure(self.adam), new))

    def _check_networks(self, weights: Mapping[str, np.ndarray]) -> None:
        """The networks of the objective are those of the checkpoint; the model was compared."""
        own, saved = (
            {name: value.shape for name, value in arrays.items() if name.startswith(NETWORK)}
            for arrays in (self.weights, weights)
        )
        if own != saved:
            raise ValueError(
                f"objective should have the networks of the run to resume, whose weights are "
                f"{saved}, had {own}"
            )

    def _place(self, state: Any) -> Any:
        """A copy on the device, because the program takes over the memory of its state."""
        return jax.device_put(jax.tree.map(np.array, state), self.device)

    def checkpoint(self, run: dict[str, Any], epoch: int) -> Checkpoint:
        """Everything that `start` needs to go on after `epoch`."""
        arrays = {}
        for name, value in (self.weights | self.buffers).items():
            own = name.removeprefix(NETWORK)
            arrays[f"model.{name}" if own == name else f"network.{own}"] = np.array(value)
        arrays |= {f"objective.{name}": np.array(value) for name, value in self.state.items()}
        for number, leaf in enumerate(jax.tree.leaves(self.adam)):
            arrays[f"optimizer.{number}"] = np.array(leaf)
        return Checkpoint(run, epoch, arrays, {})

    def trained(self) -> Any:
        """The model with the weights of this moment."""
        return with_parameters(self.model, jax.tree.map(jnp.copy, self.weights | self.buffers))

    def epoch(self, epoch: int) -> float:
        """Trains on every datum once; the mean loss per datum over the batches."""
        turns = self.objective.with_state(self.state).turns()
        order = np.random.default_rng([self.seed, epoch])
        indices = self._order(order)
        others = self._order(order) if any(turn.window is not None for turn in turns) else None
        key = jax.random.fold_in(jax.random.key(self.seed), epoch)
        data = self.batches.arrays
        if self.new:
            given = (self.buffers, self.state, data, indices[0], key, epoch)
            faults.check_gradients(lambda *a: self.steps.loss(*a)[0], self.weights, *given)
        # Batches of one size are the steps of a loop; a smaller last one is a step of its own.
        loop, rest = _of_one_size(indices)
        from_others = None if others is None else _of_one_size(others)[0]
        run = ((self.weights, self.adam, self.buffers, self.state), jnp.array(True))
        (kept, _), found = self.run(run, data, loop, rest, from_others, key, epoch, turns=turns)
        self.weights, self.adam, self.buffers, self.state = kept
        losses, taken = (np.asarray(numbers) for numbers in found)
        if not np.isfinite(losses).all():
            self._stop(epoch, turns, indices, from_others, losses, taken, key)
        if self.new:
            faults.warn_of_zeros({n: m for adam in self.adam.values() for n, m in adam.mu.items()})
            self.new = False
        ended = self.objective.with_state(self.state).after_epoch(self.trained(), *self.arrays)
        self.state = self.state | self._place(ended)
        return float(np.mean(losses[:, -1], dtype=np.float64))

    def _order(self, generator: np.random.Generator) -> list[np.ndarray]:
        """The indices of each batch of all data in a random order."""
        return self.objective.batches(self.batch_size, generator, *self.arrays)

    def _stop(
        self,
        epoch: int,
        turns: Sequence[Turn],
        indices: Sequence[np.ndarray],
        others: np.ndarray | None,
        losses: np.ndarray,
        taken: np.ndarray,
        key: Array,
    ) -> NoReturn:
        number, which = (int(place[0]) for place in np.nonzero(~np.isfinite(losses)))
        step, batch_key = taken[number, which] - 1, jax.random.fold_in(key, number)
        among = None if others is None else jnp.asarray(others)
        index = jnp.asarray(indices[number])
        index, step_key = place_of(which, turns[which], step, index, among, batch_key)
        now = (self.weights, self.buffers, self.state, self.batches.arrays)
        fault = faults.first_fault(lambda: self.steps.loss(*now, index, step_key, epoch))
        raise FloatingPointError(
            f"loss should be finite, was {losses[number, which]} at epoch {epoch}, "
            f"batch {number + 1} of {len(indices)}; {fault}. "
            "The checkpoint of the last epoch, if there is one, is good"
        )


def _of_one_size(indices: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The batches of the first one's size as an array, and the others."""
    size = len(indices[0])
    same = [index for index in indices if len(index) == size]
    return np.stack(same), [index for index in indices if len(index) != size]
