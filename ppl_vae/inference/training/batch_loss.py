"""The loss of a batch of data, as training steps and checks compute it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.inference.batches import Batches
from ppl_vae.inference.compilation.precision import Precision, matmul_precision
from ppl_vae.inference.distributed.processes import ALONE, Processes
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.models.base import Model

Losses = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class BatchLoss:
    """The mean loss per datum of a batch, and the objective's state after it.

    Attributes:
        model: The model/guide pair.
        objective: The objective.
        precision: Precision of matrix multiplications.
        batches: The data set, if batches are given as indices.
        processes: The processes that share a batch.
    """

    model: Model
    objective: Objective
    precision: Precision
    batches: Batches | None
    processes: Processes

    def data(self, batch: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the data of a batch, which may be given as indices."""
        return batch if self.batches is None else self.batches[batch[0]]

    def whole(self, epoch: Any, state: Mapping[str, Tensor], data: Sequence[Tensor]) -> Losses:
        """Compute the loss of all rows in this process.

        Args:
            epoch: Number of the epoch; a tensor in compiled steps.
            state: The objective's state.
            data: The arguments of the objective.
        """
        return self._computed_by(ALONE, epoch, state, data)

    def own_part(self, epoch: Any, state: Mapping[str, Tensor], data: Sequence[Tensor]) -> Losses:
        """Compute this process's part of the loss; the parts of all processes sum to `whole`."""
        return self._computed_by(self.processes, epoch, state, data)

    def _computed_by(
        self, processes: Processes, epoch: Any, state: Mapping[str, Tensor], data: Sequence[Tensor]
    ) -> Losses:
        objective = self.objective.at(epoch).with_state(state)
        programs = self.model.model, self.model.guide
        with matmul_precision(self.precision):
            total, new = processes.loss_and_state(objective, *programs, *data)
        return total / len(data[0]), new


def parameters_of(model: Model, objective: Objective) -> dict[str, nn.Parameter]:
    """Return the parameters of the model and of the objective's networks, by unique names.

    Raises:
        ValueError: A network shares a parameter with the model.
    """
    named = dict(model.named_parameters())
    of_model = {id(parameter): key for key, parameter in named.items()}
    for name, network in objective.networks().items():
        for key, parameter in network.named_parameters(prefix=f"network:{name}"):
            if id(parameter) in of_model:
                raise ValueError(
                    f"{name} should have parameters of its own, but {key!r} is "
                    f"{of_model[id(parameter)]!r} of the model"
                )
            named[key] = parameter
    return named


def copy_of_state(objective: Objective, device: torch.device) -> dict[str, Tensor]:
    """Return the initial state of the objective on a device."""
    return {name: value.to(device, copy=True) for name, value in objective.state().items()}
