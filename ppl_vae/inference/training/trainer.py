"""The state of a run of `fit`, and the steps that change it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.compilation.precision import Precision
from ppl_vae.inference.distributed.processes import Processes
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.training import faults, optimizers
from ppl_vae.inference.training.epoch_state import EpochState
from ppl_vae.inference.training.fault_watch import FaultWatch, Taken
from ppl_vae.inference.training.step import Compile, Step, parameters_of
from ppl_vae.models.base import Model
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.interrupts import Interrupt
from ppl_vae.shared.training.optimizers import Optimizer
from ppl_vae.shared.training.progress import Progress
from ppl_vae.shared.training.turns import Turn


class Trainer:
    """The state of a run: model, objective, optimizer, order of the data.

    Args:
        model: The pair, on its device.
        objective: What is minimised, prepared for the data.
        arrays: The data.
        device: Where the model is.
        batch_size: Data per batch.
        lr: Step size, or a schedule of it.
        optimizer: How parameters follow their gradients.
        clip_norm: See `Step`.
        compile: See `Step`.
        precision: See `Step`.
        skips: Whether the epoch goes on after a loss or a gradient that is not finite.
        processes: Those that train together, of which this is one.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        arrays: tuple[Any, ...],
        device: torch.device,
        batch_size: int,
        *,
        lr: float | Schedule,
        optimizer: Optimizer,
        clip_norm: float | None,
        compile: Compile,
        precision: Precision,
        skips: bool,
        processes: Processes,
    ) -> None:
        self.model, self.objective, self.arrays = model, objective, arrays
        self.device, self.batch_size = device, batch_size
        own = [p for p in model.parameters() if p.requires_grad]
        if not own:
            raise ValueError("model should have a parameter to train, had none")
        given = objective.networks()
        self.networks = {name: n.to(device, own[0].dtype) for name, n in given.items()}
        self.parameters = parameters_of(model, objective)
        faults.check_finite_parameters(self.parameters)
        self.batches = Batches(arrays, device, own[0].dtype)
        self.lr = lr
        trained = [p for p in self.parameters.values() if p.requires_grad]
        self.optimizer = optimizers.build_optimizer(optimizer, trained)
        self.svi = Step(
            model,
            objective,
            self.optimizer,
            compile=compile,
            clip_norm=clip_norm,
            precision=precision,
            batches=self.batches if self.batches.resident else None,
            stops=not skips,
            processes=processes,
        )
        self.processes = processes
        processes.broadcast_weights([model, *self.networks.values()])
        self.order = torch.Generator()
        self.current_epoch: EpochState | None = None
        self.watch = FaultWatch(self.svi, self.batches)
        self.skips, self.checked = skips, False

    @property
    def state(self) -> dict[str, Tensor]:
        """The numbers of the objective."""
        return self.svi.state

    def seed(self, seed: int) -> None:
        """Seeds everything random of the epochs to come."""
        pyro.set_rng_seed(seed)
        self.order.manual_seed(seed)

    def epoch(self, epoch: int, bar: Progress, interrupt: Interrupt) -> dict[str, float] | None:
        """Trains on every datum once; the numbers to report of it.

        These are the mean loss per datum over the batches that were not skipped, the number of
        steps that were, and seconds. If it is asked to stop on its way it returns None, and the
        epoch is `current_epoch`.

        Raises:
            faults.Fault: a loss or a gradient was not finite, and of those that are skipped all.
        """
        for module in (self.model, *self.networks.values()):
            module.train()
        self.svi.epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(epoch) if isinstance(self.lr, Schedule) else self.lr
        if self.current_epoch is None:
            self.current_epoch = EpochState.begun(self.order, self.state)
        self.svi.skipped.zero_()
        now, going = self.objective.at(epoch), self.current_epoch
        turns = now.with_state(going.state).turns()
        indices, others = going.plan(self.order, self._cut, turns)
        first: Taken | None = None
        for index in indices[going.done :]:
            where = f"epoch {epoch}, batch {going.done + 1} of {len(indices)}"
            for turn in turns:
                skipped = self.svi.skipped.clone() if self.skips else None
                loss = self._take(turn, index, others, where)
            if skipped is not None:  # a gradient can be at fault where the loss is not
                loss = loss.where(self.svi.skipped == skipped, torch.nan)
            first = first or self.watch.last
            going.losses.append(loss)
            going.done += 1
            bar.step(len(indices))
            if interrupt.asked and going.done < len(indices):
                self.watch.look()
                return None
        self.watch.look()
        self.processes.check_in_step([self.model, *self.networks.values()])
        return self._ended(now, going, first)

    def _ended(self, now: Objective, going: EpochState, first: Taken | None) -> dict[str, float]:
        """What `epoch` reports of a pass that is over; `first` is a step of its first batch."""
        losses = going.values()
        used = losses[np.isfinite(losses)]
        if first is not None and len(used) == 0:
            raise self.watch.fault(first)
        ended = now.with_state(self.state).after_epoch(self.model, *self.arrays)
        for name, value in ended.items():
            self.state[name].copy_(value)
        self.current_epoch = None
        total = going.skipped + int(self.svi.skipped)
        return {"loss": float(np.mean(used)), "skipped": total, "seconds": going.elapsed()}

    def _cut(self) -> list[Tensor]:
        """The indices of each batch of all data in a random order."""
        found = list(self.objective.batches(self.batch_size, self.order, *self.arrays))
        if self.device.type == "cpu":
            return found
        sizes = [len(index) for index in found]
        return list(torch.cat(found).to(self.device).split(sizes))  # one transfer for all

    def _take(self, turn: Turn, index: Tensor, others: Sequence[Tensor], where: str) -> Tensor:
        """The steps of a turn, on the batch at `index` or on some of `others`; their last loss."""
        if turn.window is None:
            return self.step(index, where, turn.group)
        losses, taken = np.zeros(turn.max_steps), 0
        while taken == 0 or not turn.over(losses, taken):
            index = others[int(torch.randint(len(others), (), generator=self.order))]
            loss = self.step(index, where, turn.group)
            losses[taken] = loss.item()
            taken += 1
        return loss

    def step(self, index: Tensor, where: str, group: str | None) -> Tensor:
        """A step of the parameters of a group (None: of all), and the loss before it."""
        if not self.checked:
            self.checked = True
            self._check_step(self._batch(index))
        self.watch.begins(index, where)
        loss = self.svi(*self._batch(index), group=group)
        self.watch.check_if_due()
        return loss

    def _batch(self, index: Tensor) -> tuple[Tensor, ...]:
        """The batch as the step takes it: as indices of data that are where the model is."""
        return (index,) if self.batches.resident else self.batches[index]

    def _check_step(self, batch: tuple[Tensor, ...]) -> None:
        """Before the first step: that every parameter gets a gradient, and Pyro's checks."""
        buffers, random = self.svi.slots.saved_buffers(), random_state.of_draws(self.device)
        with pyro.validation_enabled(False):
            loss, _ = self.svi.loss(*batch)
        if loss.isfinite():  # else the step itself will say why
            loss.backward()
            faults.check_gradients(self.parameters)
            self.optimizer.zero_grad()
            random_state.set_draws(random, self.device)
            with pyro.validation_enabled(True):
                self.svi.loss(*batch)
            self.processes.check_sums(self.svi, batch)
        random_state.set_draws(random, self.device)
        self.svi.slots.restore(buffers)
