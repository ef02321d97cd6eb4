"""The state of a run of `fit`, and the steps that change it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from ppl_vae.checks import as_numpy
from ppl_vae.inference import faults, random_state
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.objective import Objective
from ppl_vae.inference.step import Compile, Step, parameters_of
from ppl_vae.models.base import Model, keeping_buffers
from ppl_vae.runs import Checkpoint, Progress, part
from ppl_vae.schedules import Schedule
from ppl_vae.turns import Turn


class Trainer:
    """The state of a run: model, objective, optimizer, order of the data."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        arrays: tuple[Any, ...],
        device: torch.device,
        batch_size: int,
        lr: float | Schedule,
        compile: Compile,
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
        self.optimizer = torch.optim.Adam(trained, fused=True)
        self.svi = Step(model, objective, self.optimizer, compile=compile)
        self.order = torch.Generator()
        self.steps = 0

    @property
    def state(self) -> dict[str, Tensor]:
        """The numbers of the objective."""
        return self.svi.state

    def start(self, seed: int, checkpoint: Checkpoint | None) -> None:
        """Begins a run, or goes on where the checkpoint was made."""
        self.order.manual_seed(seed)
        if checkpoint is None:
            return
        self.steps = 1  # of which the first was checked
        for name, network in self.networks.items():
            _take_over(network, name, part(checkpoint.arrays, f"network.{name}"))
        self.model.with_weights(part(checkpoint.arrays, "model"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in part(checkpoint.arrays, "optimizer").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = torch.tensor(array)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        saved = part(checkpoint.arrays, "objective")
        for name, value in self.state.items():
            value.copy_(torch.tensor(saved[name]))
        random = part(checkpoint.arrays, "random")
        self.order.set_state(torch.tensor(random.pop("order")))
        random_state.set_state(random, checkpoint.extra["random"], self.device)

    def checkpoint(self, run: dict[str, Any], epoch: int) -> Checkpoint:
        """Everything that `start` needs to go on after `epoch`."""
        arrays = {f"model.{name}": as_numpy(v) for name, v in self.model.state_dict().items()}
        for name, network in self.networks.items():
            weights = network.state_dict()
            arrays |= {f"network.{name}.{key}": as_numpy(v) for key, v in weights.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{key}": as_numpy(v) for key, v in values.items()}
        arrays |= {f"objective.{name}": as_numpy(value) for name, value in self.state.items()}
        states, extra = random_state.get_state(self.device)
        arrays |= {f"random.{name}": state for name, state in states.items()}
        arrays["random.order"] = self.order.get_state().numpy()
        return Checkpoint(run, epoch, arrays, {"random": extra})

    def epoch(self, epoch: int, bar: Progress) -> float:
        """Trains on every datum once; the mean loss per datum over the batches."""
        for module in (self.model, *self.networks.values()):
            module.train()
        self.svi.epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(epoch) if isinstance(self.lr, Schedule) else self.lr
        now = self.objective.at(epoch)
        turns = now.with_state(self.state).turns()
        indices = self._order()
        again = self._order() if any(turn.window is not None for turn in turns) else []
        others = [index for index in again if len(index) == len(again[0])]
        losses = []
        for number, index in enumerate(indices, start=1):
            where = f"at epoch {epoch}, batch {number} of {len(indices)}"
            values = [self._take(turn, index, others, where) for turn in turns]
            losses.append(values[-1])
            bar.step(len(indices))
        ended = now.with_state(self.state).after_epoch(self.model, *self.arrays)
        for name, value in ended.items():
            self.state[name].copy_(value)
        return float(np.mean(losses))

    def _order(self) -> list[Tensor]:
        """The indices of each batch of all data in a random order."""
        return list(self.objective.batches(self.batch_size, self.order, *self.arrays))

    def _take(self, turn: Turn, index: Tensor, others: Sequence[Tensor], where: str) -> float:
        """The steps of a turn, on the batch at `index` or on some of `others`; their last loss."""
        losses, taken = np.zeros(turn.most), 0
        while taken == 0 or not turn.over(losses, taken):
            if turn.window is not None:
                index = others[int(torch.randint(len(others), (), generator=self.order))]
            losses[taken] = self.step(self.batches[index], where, turn.group)
            taken += 1
        return float(losses[taken - 1])

    def step(self, batch: tuple[Tensor, ...], where: str, group: str | None = None) -> float:
        """A step of the parameters of a group (None: of all), and the loss before it."""
        if self.steps == 0:
            self._check_step(batch)
        before = torch.get_rng_state()
        value = self.svi(*batch, group=group).item()
        if not np.isfinite(value):
            torch.set_rng_state(before)
            with pyro.validation_enabled(False):
                fault = faults.first_fault(lambda: self.svi.loss(*batch)[0])
            raise FloatingPointError(
                f"loss should be finite, was {value} {where}; {fault}. "
                "The checkpoint of the last epoch, if there is one, is good"
            )
        self.steps += 1
        return value

    def _check_step(self, batch: tuple[Tensor, ...]) -> None:
        """Before the first step: that every parameter gets a gradient, and Pyro's checks."""
        with self._keeping_buffers(), torch.random.fork_rng():
            with pyro.validation_enabled(False):
                loss, _ = self.svi.loss(*batch)
            if not loss.isfinite():
                return  # the step itself will say why
            loss.backward()
            faults.check_gradients(self.parameters)
            self.optimizer.zero_grad()
            with pyro.validation_enabled(True):
                self.svi.loss(*batch)

    @contextmanager
    def _keeping_buffers(self) -> Iterator[None]:
        with ExitStack() as kept:
            for module in (self.model, *self.networks.values()):
                kept.enter_context(keeping_buffers(module))
            yield


def _take_over(network: nn.Module, name: str, weights: Mapping[str, np.ndarray]) -> None:
    """Puts the weights of a checkpoint into an objective's network."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    saved = {key: value.shape for key, value in weights.items()}
    if own != saved:
        raise ValueError(
            f"{name} should be the network of the run to resume, whose weights are {saved}, "
            f"had {own}"
        )
    network.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
