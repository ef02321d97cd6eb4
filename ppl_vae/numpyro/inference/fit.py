"""Training of a model/guide pair, as `ppl_vae.inference.fit`: one compiled program per epoch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from numpyro.infer import ELBO as NumPyroELBO

from ppl_vae.checks import check_positive, check_whole
from ppl_vae.numpyro.inference import faults
from ppl_vae.numpyro.inference.batches import Batches, as_tuple, find_device
from ppl_vae.numpyro.inference.elbo import ELBO
from ppl_vae.numpyro.inference.evaluate import mean_loss
from ppl_vae.numpyro.inference.objective import NumPyroObjective, Objective, SharedState
from ppl_vae.numpyro.models.base import Model, buffers, parameters, with_parameters
from ppl_vae.numpyro.models.layers import training
from ppl_vae.runs import Checkpoint, History, Metrics, Progress, describe_run, part, plain
from ppl_vae.schedules import Schedule

Validation = Callable[[Any], Mapping[str, float]]
Weights: TypeAlias = dict[str, Array]
NETWORK = "network:"
"""How the names of the objective's weights begin, and no name of a model's."""


def fit(
    model: Model,
    data: Any,
    objective: NumPyroELBO | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    device: str | jax.Device = "auto",
    seed: int = 0,
    validation: Validation | Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """Trains every parameter of `model` by Adam; the trained model is `fit(model, ...).model`.

    As `ppl_vae.inference.fit`, but the given model stays as it is, and so do networks of the
    objective, whose trained weights are in the checkpoint alone.
    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not.

    Args:
        model: The pair.
        data: The argument of `model.model`, or a tuple of its arguments: arrays of any kind or
            what is drawn anew for each batch (`ppl_vae.data.Dynamic` pixels, `NormalFeatures`),
            with a first dimension of one length.
        objective: A ppl_vae.numpyro objective or a `numpyro.infer.ELBO`; by default `ELBO()`.
        epochs: Number of epochs, those before a resume included.
        batch_size: Data per batch; the last batch of an epoch may be smaller.
        lr: Adam's step size, or a schedule of it: `ExponentialDecay(1e-3, 1e-4, epochs)`.
        device: "auto" (what jax prefers), "cpu", "cuda" or a jax.Device.
        seed: Of everything random: order of the data, pixels, draws. Not of the initial weights,
            which the model got when it was made.
        validation: Called with the model after every epoch, gives names and numbers to report; or
            data like `data`, whose loss is reported as "validation_loss".
        out: Folder for metrics.csv and a checkpoint per epoch, made if need be. Without `resume`, a
            run that is there is replaced.
        resume: Go on from the checkpoint in `out`, if there is one.
        label: What the progress bar is called; by default the model's class.
        progress: Whether to show progress.

    Returns:
        The trained model, and of every epoch the loss, what the objective reports, and the
        validation.

    Raises:
        ValueError: an argument is not what it should be, or a parameter receives no gradient.
        FloatingPointError: the loss became NaN or infinite; the last checkpoint stays.
    """
    for name, number, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        check_whole(name, number, least)
    if not isinstance(lr, Schedule):
        check_positive("lr", lr)
    arrays = as_tuple(data)
    given = _as_objective(objective)
    found = find_device(device)
    prepared = given.prepare(model, *arrays)
    if validation is not None and not callable(validation):
        given.check(model, *as_tuple(validation))
    trainer = _Trainer(model, prepared, arrays, found, batch_size, lr, seed)
    folder = None if out is None else Path(out)
    settings = {"batch_size": batch_size, "lr": plain(lr), "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    checkpoint = Checkpoint.find(folder, run, epochs) if resume else None
    done = 0 if checkpoint is None else checkpoint.epoch
    trainer.start(checkpoint)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder, done)
    with Progress(label or type(model).__name__, epochs, done, progress) as bar:
        for epoch in range(done + 1, epochs + 1):
            start = time.perf_counter()
            row = {"epoch": float(epoch), "loss": trainer.epoch(epoch)}
            row |= {name: float(value) for name, value in trainer.state.items()}
            row |= _validate(trainer.trained(), given, validation)
            row["seconds"] = time.perf_counter() - start
            metrics.append(row)
            bar.epoch(row)
            if folder is not None:
                trainer.checkpoint(run, epoch).save(folder)
    return History(trainer.trained(), metrics.rows, folder)


class _Trainer:
    """The state of a run, and the program that takes it through an epoch."""

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
        self.lr = lr
        self.optimizer = optax.scale_by_adam()
        self.adam = self._place(self.optimizer.init(self.weights))
        self.state = self._place(objective.state())
        self.run = jax.jit(self._run, donate_argnums=0)
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
        order = np.random.default_rng([self.seed, epoch])
        indices = self.objective.batches(self.batch_size, order, *self.arrays)
        key = jax.random.fold_in(jax.random.key(self.seed), epoch)
        data = self.batches.arrays
        if self.new:
            given = (self.buffers, self.state, data, indices[0], key, epoch)
            faults.check_gradients(lambda *a: self.loss(*a)[0], self.weights, *given)
        # Batches of one size are the steps of a loop; a smaller last one is a step of its own.
        size = len(indices[0])
        loop = np.stack([index for index in indices if len(index) == size])
        rest = [index for index in indices if len(index) != size]
        run = ((self.weights, self.adam, self.buffers, self.state), jnp.array(True))
        (kept, _), losses = self.run(run, data, loop, rest, key, epoch)
        self.weights, self.adam, self.buffers, self.state = kept
        values = np.asarray(losses)
        if not np.isfinite(values).all():
            self._stop(epoch, indices, values, key)
        if self.new:
            faults.warn_of_zeros(self.adam.mu)
            self.new = False
        return float(np.mean(values, dtype=np.float64))

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

    def _run(
        self, run: Any, data: Any, loop: Array, rest: list[Array], key: Array, epoch: Array
    ) -> Any:
        lr = self.lr(epoch) if isinstance(self.lr, Schedule) else self.lr
        gradient_of = jax.value_and_grad(self.loss, has_aux=True)

        def step(run: Any, batch: tuple[Array, Array]) -> Any:
            (old, alive), (number, index) = run, batch
            weights, adam, *rest = old
            step_key = jax.random.fold_in(key, number)
            (loss, rest), gradient = gradient_of(weights, *rest, data, index, step_key, epoch)
            direction, adam = self.optimizer.update(gradient, adam, weights)
            weights = jax.tree.map(lambda w, d: w - lr * d, weights, direction)
            # After a fault all stays as it was, for `_stop` to run the batch again.
            alive = alive & jnp.isfinite(loss)
            new = (weights, adam, *rest)
            return (jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old), alive), loss

        run, losses = lax.scan(step, run, (jnp.arange(len(loop)), loop))
        for number, index in enumerate(rest, start=len(loop)):
            run, last = step(run, (jnp.array(number), index))
            losses = jnp.append(losses, last)
        return run, losses

    def _stop(self, epoch: int, indices: list[np.ndarray], losses: np.ndarray, key: Array) -> None:
        number = int(np.flatnonzero(~np.isfinite(losses))[0])
        index, step_key = jnp.asarray(indices[number]), jax.random.fold_in(key, number)
        now = (self.weights, self.buffers, self.state, self.batches.arrays)
        fault = faults.first_fault(lambda: self.loss(*now, index, step_key, epoch))
        raise FloatingPointError(
            f"loss should be finite, was {losses[number]} at epoch {epoch}, "
            f"batch {number + 1} of {len(indices)}; {fault}. "
            "The checkpoint of the last epoch, if there is one, is good"
        )


def _as_objective(objective: NumPyroELBO | None) -> Objective:
    if objective is None:
        return ELBO()
    return objective if isinstance(objective, Objective) else NumPyroObjective(objective)


def _validate(model: Model, objective: Objective, validation: Any) -> dict[str, float]:
    """The numbers to report after an epoch; draws are the same after every epoch."""
    if validation is None:
        return {}
    if not callable(validation):
        return {"validation_loss": mean_loss(model, validation, objective)}
    return {name: float(value) for name, value in validation(model).items()}
