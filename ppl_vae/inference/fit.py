"""Training of a model/guide pair: epochs, progress, metrics, checkpoints, resume."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.elbo import ELBO as PyroELBO
from torch import Tensor, nn

from ppl_vae.checks import as_numpy, check_positive, check_whole
from ppl_vae.inference import faults, random_state
from ppl_vae.inference.batches import Batches, as_tuple, find_device
from ppl_vae.inference.elbo import ELBO
from ppl_vae.inference.evaluate import mean_loss
from ppl_vae.inference.objective import Objective, PyroObjective
from ppl_vae.models.base import Model, evaluating, keeping_buffers
from ppl_vae.runs import Checkpoint, History, Metrics, Progress, describe_run, part, plain
from ppl_vae.schedules import Schedule

Validation = Callable[[Any], Mapping[str, float]]


def fit(
    model: Model,
    data: Any,
    objective: PyroELBO | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    device: str | torch.device = "auto",
    seed: int = 0,
    validation: Validation | Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    label: str | None = None,
    progress: bool = True,
) -> History:
    """Trains every parameter of `model`, and of the objective's networks, by Adam, in place.

    Equal arguments give equal weights, bit for bit on one machine's CPU, whether the run was
    interrupted and resumed or not. The caller's random state is left as it was.

    Args:
        model: The pair; it is moved to `device`, and so are the objective's networks, which get
            its floating type too.
        data: The argument of `model.model`, or a tuple of its arguments: numpy arrays, tensors or
            what is drawn anew for each batch (`ppl_vae.data.Dynamic` pixels, `NormalFeatures`),
            with a first dimension of one length.
        objective: A ppl_vae objective or a `pyro.infer.ELBO`; by default `ELBO()`.
        epochs: Number of epochs, those before a resume included.
        batch_size: Data per batch; the last batch of an epoch may be smaller.
        lr: Adam's step size, or a schedule of it: `ExponentialDecay(1e-3, 1e-4, epochs)`.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or a torch.device.
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
        The model, and of every epoch the loss, what the objective reports, and the validation.

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
    trainer = _Trainer(model.to(found), prepared, arrays, found, batch_size, lr)
    folder = None if out is None else Path(out)
    settings = {"batch_size": batch_size, "lr": plain(lr), "seed": seed}
    run = {} if folder is None else describe_run(model, prepared, arrays, **settings)
    with random_state.isolated(seed, found):
        checkpoint = Checkpoint.find(folder, run, epochs) if resume else None
        done = 0 if checkpoint is None else checkpoint.epoch
        trainer.start(seed, checkpoint)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(folder, done)
        with Progress(label or type(model).__name__, epochs, done, progress) as bar:
            for epoch in range(done + 1, epochs + 1):
                start = time.perf_counter()
                row = {"epoch": float(epoch), "loss": trainer.epoch(epoch, bar)}
                row |= {name: value.item() for name, value in trainer.state.items()}
                row |= _validate(model, given, validation, found)
                row["seconds"] = time.perf_counter() - start
                metrics.append(row)
                bar.epoch(row)
                if folder is not None:
                    trainer.checkpoint(run, epoch).save(folder)
    return History(model, metrics.rows, folder)


class _Trainer:
    """The state of a run: model, objective, optimizer, order of the data."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        arrays: tuple[Any, ...],
        device: torch.device,
        batch_size: int,
        lr: float | Schedule,
    ) -> None:
        self.model, self.objective, self.arrays = model, objective, arrays
        self.now = objective  # in the epoch that runs
        self.device, self.batch_size = device, batch_size
        own = [p for p in model.parameters() if p.requires_grad]
        if not own:
            raise ValueError("model should have a parameter to train, had none")
        given = objective.networks()
        self.networks = {name: n.to(device, own[0].dtype) for name, n in given.items()}
        self.parameters = dict(model.named_parameters())
        for name, network in self.networks.items():
            self.parameters |= _parameters_of(network, name, model)
        faults.check_finite_parameters(self.parameters)
        self.batches = Batches(arrays, device, own[0].dtype)
        self.lr = lr
        trained = [p for p in self.parameters.values() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, fused=True)
        self.state = {name: value.to(device) for name, value in objective.state().items()}
        self.order = torch.Generator()
        self.steps = 0

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
        self.state = {name: torch.tensor(saved[name], device=self.device) for name in self.state}
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
        self.now = self.objective.at(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(epoch) if isinstance(self.lr, Schedule) else self.lr
        indices = list(self.objective.batches(self.batch_size, self.order, *self.arrays))
        losses = []
        for number, index in enumerate(indices, start=1):
            where = f"at epoch {epoch}, batch {number} of {len(indices)}"
            losses.append(self.step(self.batches[index], where))
            bar.step(len(indices))
        return float(np.mean(losses))

    def step(self, batch: tuple[Tensor, ...], where: str) -> float:
        before = torch.get_rng_state()
        self.optimizer.zero_grad()
        # Pyro's checks cost a third of a small model's step, and programs do not change.
        with pyro.validation_enabled(False):
            loss, state = self.loss(batch)
            value = loss.item()
            if not np.isfinite(value):
                torch.set_rng_state(before)
                fault = faults.first_fault(lambda: self.loss(batch)[0])
                raise FloatingPointError(
                    f"loss should be finite, was {value} {where}; {fault}. "
                    "The checkpoint of the last epoch, if there is one, is good"
                )
            loss.backward()
        if self.steps == 0:
            faults.check_gradients(self.parameters)
            with ExitStack() as kept:
                for module in (self.model, *self.networks.values()):
                    kept.enter_context(keeping_buffers(module))
                with torch.random.fork_rng(), pyro.validation_enabled(True):
                    self.loss(batch)
        self.optimizer.step()
        self.state = {name: number.detach() for name, number in state.items()}
        self.steps += 1
        return value

    def loss(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss per datum, and the objective's numbers for the next step."""
        objective = self.now.with_state(self.state)
        total, state = objective.loss_and_state(self.model.model, self.model.guide, *batch)
        return total / len(batch[0]), state


def _parameters_of(network: nn.Module, name: str, model: Model) -> dict[str, nn.Parameter]:
    """The parameters of an objective's network, by names that no model's parameter has."""
    shared = {id(parameter): key for key, parameter in model.named_parameters()}
    found = dict(network.named_parameters(prefix=f"network:{name}"))
    for key, parameter in found.items():
        if id(parameter) in shared:
            raise ValueError(
                f"{name} should have parameters of its own, but {key!r} is "
                f"{shared[id(parameter)]!r} of the model"
            )
    return found


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


def _as_objective(objective: PyroELBO | None) -> Objective:
    if objective is None:
        return ELBO()
    return objective if isinstance(objective, Objective) else PyroObjective(objective)


def _validate(
    model: Model, objective: Objective, validation: Any, device: torch.device
) -> dict[str, float]:
    """The numbers to report after an epoch, which cost the run none of its random numbers."""
    if validation is None:
        return {}
    if not callable(validation):
        return {"validation_loss": mean_loss(model, validation, objective)}
    with evaluating(model), random_state.isolated(0, device), torch.no_grad():
        return {name: float(value) for name, value in validation(model).items()}
