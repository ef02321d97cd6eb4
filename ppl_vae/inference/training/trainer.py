"""The state of a run of `fit`, and the steps that change it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.precision import Precision
from ppl_vae.inference.distributed.processes import Processes
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.training import faults, optimizers
from ppl_vae.inference.training.batch_loss import parameters_of
from ppl_vae.inference.training.consistency import check_sums
from ppl_vae.inference.training.epoch_state import EpochState
from ppl_vae.inference.training.fault_watch import FaultWatch, StepRecord
from ppl_vae.inference.training.step import Step
from ppl_vae.models.base import Model
from ppl_vae.shared.training import stepping
from ppl_vae.shared.training.interrupts import Interrupt
from ppl_vae.shared.training.progress import Progress
from ppl_vae.shared.training.turns import Turn


@dataclass(frozen=True)
class Stepping(stepping.Stepping):
    """The arguments of `fit` of these names, see `ppl_vae.shared.training.stepping`."""

    compile: Compile = "auto"
    precision: Precision = "fp32"

    def described(self) -> dict[str, Any]:
        return {**super().described(), "compile": self.compile, "precision": self.precision}


class Trainer:
    """The state of a run: model, objective, optimizer, order of the data.

    Args:
        model: The model/guide pair, on its device.
        objective: The objective to minimise, prepared for the data.
        arrays: The data.
        device: The device of the model.
        batch_size: Batch size.
        stepping: How parameters are updated from gradients.
        processes: The processes that train together.

    Attributes:
        current_epoch: The state of a partially completed epoch, or None.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        arrays: tuple[Any, ...],
        device: torch.device,
        batch_size: int,
        stepping: Stepping,
        processes: Processes,
    ) -> None:
        self.model, self.objective, self.arrays = model, objective, arrays
        self.device, self.batch_size, self.stepping = device, batch_size, stepping
        dtypes = [p.dtype for p in model.parameters() if p.requires_grad]
        if not dtypes:
            raise ValueError("model should have a parameter to train, had none")
        dtype = dtypes[0]
        networks = objective.networks()
        self.networks = {name: n.to(device, dtype) for name, n in networks.items()}
        self.parameters = parameters_of(model, objective)
        faults.check_finite_parameters(self.parameters)
        self.batches = Batches(arrays, device, dtype)
        trained = [p for p in self.parameters.values() if p.requires_grad]
        self.optimizer = optimizers.build_optimizer(stepping.optimizer, trained)
        self.step = Step(
            model,
            objective,
            self.optimizer,
            compile=stepping.compile,
            clip_norm=stepping.clip_norm,
            precision=stepping.precision,
            batches=self.batches if self.batches.resident else None,
            stops=stepping.on_nan != "skip",
            processes=processes,
        )
        self.processes = processes
        processes.broadcast_weights([model, *self.networks.values()])
        self.order = torch.Generator()
        self.current_epoch: EpochState | None = None
        self.watch = FaultWatch(self.step, self.batches)
        self.checked = False

    @property
    def state(self) -> dict[str, Tensor]:
        """The objective's state."""
        return self.step.state

    def seed(self, seed: int) -> None:
        """Seed all random numbers of the epochs to come."""
        pyro.set_rng_seed(seed)
        self.order.manual_seed(seed)

    def epoch(self, epoch: int, bar: Progress, interrupt: Interrupt) -> dict[str, float] | None:
        """Train for one pass over the data.

        Returns:
            The mean loss per datum over the batches in which every step changed something, the
            number of skipped steps, and seconds. None if the epoch was interrupted; it is then
            `current_epoch`.

        Raises:
            faults.Fault: A loss or a gradient was not finite; with `on_nan="skip"`, in every batch.
        """
        state = self._begin(epoch)
        objective = self.objective.at(epoch)
        turns = objective.with_state(state.state).turns()
        indices, others = state.plan(self.order, self._cut, turns)
        first: StepRecord | None = None
        for index in indices[state.done :]:
            where = f"epoch {epoch}, batch {state.done + 1} of {len(indices)}"
            state.losses.append(self._take_turns(turns, index, others, where))
            first = first or self.watch.last
            state.done += 1
            bar.step(len(indices))
            if interrupt.asked and state.done < len(indices):
                self.watch.check()
                return None
        self.watch.check()
        self.processes.check_synchronised([self.model, *self.networks.values()])
        return self._end(objective, state, first)

    def _begin(self, epoch: int) -> EpochState:
        """Set modes, epoch and learning rate; return the epoch's state, which may be resumed."""
        for module in (self.model, *self.networks.values()):
            module.train()
        self.step.epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.stepping.lr_at(epoch)
        if self.current_epoch is None:
            self.current_epoch = EpochState.begun(self.order, self.state)
        self.step.skipped.zero_()
        return self.current_epoch

    def _end(
        self, objective: Objective, state: EpochState, first: StepRecord | None
    ) -> dict[str, float]:
        """Complete an epoch, and return what `epoch` reports; `first` is its first step."""
        losses = state.values()
        used = losses[np.isfinite(losses)]
        if first is not None and len(used) == 0:
            raise self.watch.fault(first)
        ended = objective.with_state(self.state).after_epoch(self.model, *self.arrays)
        for name, value in ended.items():
            self.state[name].copy_(value)
        self.current_epoch = None
        total = state.skipped + int(self.step.skipped)
        return {"loss": float(np.mean(used)), "skipped": total, "seconds": state.elapsed()}

    def _cut(self) -> list[Tensor]:
        """Return the indices of each batch of all data in a random order."""
        indices = list(self.objective.batches(self.batch_size, self.order, *self.arrays))
        if self.device.type == "cpu":
            return indices
        sizes = [len(index) for index in indices]
        return list(torch.cat(indices).to(self.device).split(sizes))  # a single transfer

    def _take_turns(
        self, turns: Sequence[Turn], index: Tensor, others: Sequence[Tensor], where: str
    ) -> Tensor:
        """Take all turns on a batch; return the last loss, NaN if a step changed nothing.

        A gradient can be non-finite where the loss is not.
        """
        skips = self.stepping.on_nan == "skip"
        before = self.step.skipped.clone() if skips else None
        for turn in turns:
            loss = self._take_turn(turn, index, others, where)
        return loss if before is None else loss.where(self.step.skipped == before, torch.nan)

    def _take_turn(self, turn: Turn, index: Tensor, others: Sequence[Tensor], where: str) -> Tensor:
        """Take the steps of a turn, on the batch at `index` or on some of `others`."""
        if turn.window is None:
            return self.take_step(index, where, turn.group)
        losses, taken = np.zeros(turn.max_steps), 0
        while taken == 0 or not turn.over(losses, taken):
            index = others[int(torch.randint(len(others), (), generator=self.order))]
            loss = self.take_step(index, where, turn.group)
            losses[taken] = loss.item()
            taken += 1
        return loss

    def take_step(self, index: Tensor, where: str, group: str | None) -> Tensor:
        """Update the parameters of a group (None: all) and return the loss before it."""
        if not self.checked:
            self.checked = True
            self._check_step(self._batch(index))
        self.watch.begin_step(index, where)
        loss = self.step(*self._batch(index), group=group)
        self.watch.check_if_due()
        return loss

    def _batch(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return a batch as the step takes it: as indices if the data are on the device."""
        return (index,) if self.batches.resident else self.batches[index]

    def _check_step(self, batch: tuple[Tensor, ...]) -> None:
        """Check before the first step that each parameter has a gradient, and run Pyro's checks."""
        buffers, random = self.step.modules.saved_buffers(), random_state.of_draws(self.device)
        with pyro.validation_enabled(False):
            loss, _ = self.step.loss(*batch)
        if loss.isfinite():  # otherwise the step itself will say why
            loss.backward()
            faults.check_gradients(self.parameters)
            self.optimizer.zero_grad()
            random_state.set_draws(random, self.device)
            with pyro.validation_enabled(True):
                self.step.loss(*batch)
            step, parameters = self.step, self.parameters
            check_sums(step.batch_loss, step.modules, parameters, step.epoch, step.state, batch)
        random_state.set_draws(random, self.device)
        self.step.modules.restore(buffers)
