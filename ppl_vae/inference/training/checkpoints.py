"""Checkpoints of a `Trainer`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.inference import random_state
from ppl_vae.inference.training import optimizers
from ppl_vae.inference.training.epoch_state import EpochState
from ppl_vae.inference.training.trainer import Trainer
from ppl_vae.shared.checks import as_numpy
from ppl_vae.shared.io.stored_weights import check_arrays
from ppl_vae.shared.training.checkpoints import Checkpoint, part


def checkpoint(trainer: Trainer, run: dict[str, Any], epoch: int) -> Checkpoint:
    """Return the state after `epoch` and of the partially completed next epoch, for `restore`."""
    arrays = {f"model.{name}": as_numpy(v) for name, v in trainer.model.state_dict().items()}
    for name, network in trainer.networks.items():
        weights = network.state_dict()
        arrays |= {f"network.{name}.{key}": as_numpy(v) for key, v in weights.items()}
    for index, values in trainer.optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{index}.{key}": as_numpy(v) for key, v in values.items()}
    arrays |= {f"objective.{name}": as_numpy(value) for name, value in trainer.state.items()}
    states, extra = random_state.get_state(trainer.device)
    arrays |= {f"random.{name}": state for name, state in states.items()}
    arrays["random.order"] = trainer.order.get_state().numpy()
    if trainer.current_epoch is None:
        return Checkpoint(run, epoch, arrays, {"random": extra})
    current = trainer.current_epoch.arrays(int(trainer.step.skipped))
    arrays |= {f"pass.{name}": array for name, array in current.items()}
    return Checkpoint(run, epoch, arrays, {"random": extra}, trainer.current_epoch.done)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Restore the trainer's state from a checkpoint.

    Raises:
        ValueError: The weights of a network or the optimizer's state do not fit the trainer's.
    """
    trainer.checked = True
    for name, network in trainer.networks.items():
        _load_weights(network, name, part(checkpoint.arrays, f"network.{name}"))
    trainer.model.with_weights(part(checkpoint.arrays, "model"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, array in part(checkpoint.arrays, "optimizer").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = torch.tensor(array)
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    for number, moments in state.items():  # a fused step would write beyond the end of small ones
        expected = optimizers.initial_state(trainer.optimizer, parameters[number])
        check_arrays("optimizer", expected, moments)
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    saved = part(checkpoint.arrays, "objective")
    for name, value in trainer.state.items():
        value.copy_(torch.tensor(saved[name]))
    random = part(checkpoint.arrays, "random")
    trainer.order.set_state(torch.tensor(random.pop("order")))
    random_state.set_state(random, checkpoint.extra["random"], trainer.device)
    trainer.current_epoch = None
    if checkpoint.batch > 0:
        saved = part(checkpoint.arrays, "pass")
        trainer.current_epoch = EpochState.restored(saved, checkpoint.batch, trainer.device)


def _load_weights(network: nn.Module, name: str, weights: Mapping[str, np.ndarray]) -> None:
    """Load the weights of a checkpoint into an objective's network."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    saved = {key: value.shape for key, value in weights.items()}
    if shapes != saved:
        raise ValueError(
            f"{name} should be the network of the run to resume, whose weights are {saved}, "
            f"had {shapes}"
        )
    network.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
