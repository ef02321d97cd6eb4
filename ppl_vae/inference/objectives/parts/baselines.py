"""Control variates (baselines) for score-function gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ppl_vae.inference.batch_sums import sum_of_batch
from ppl_vae.inference.draws import Draws, Site, per_datum
from ppl_vae.inference.objectives.parts.equality import same
from ppl_vae.models.networks.layers import MLP, Network

Baseline: TypeAlias = Literal["average"] | nn.Module | None
DECAY = 0.9
"""Weight of the past in the decaying average of the signal."""


class BaselineNet(Network):
    """Baseline network C(x) = w h(x) + b with an `MLP` h, for `ELBO(baseline=...)`.

    Args:
        in_dims: Size of the input, or sizes of several inputs.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers.
    """

    def __init__(
        self,
        in_dims: int | Sequence[int],
        hidden: Sequence[int] = (100,),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.trunk = MLP(in_dims, hidden, activation)
        self.value = nn.Linear(self.trunk.out_dim, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.value(self.trunk(*inputs))
        return value.squeeze(-1)


@dataclass(frozen=True)
class Centring:
    """The baseline c + C(x) of a batch, and its updates from the learning signal.

    The signal of shape (K, N) includes the scale of each datum; c and C predict it without the
    scale, so that they do not depend on the sizes of batch and data set.

    Attributes:
        average: c, a scalar; NaN before the first step.
        predicted: C(x), shape (N,), or 0 without a network.
        scale: Scale of each datum, broadcasts against (K, N).
        counted: 1 for draws that count and 0 for masked ones, broadcasts against (K, N).
    """

    average: Tensor
    predicted: Tensor
    scale: float | Tensor
    counted: Tensor

    @property
    def baseline(self) -> Tensor:
        """The baseline to subtract from the signal."""
        return self.scale * self._expected()

    def error(self, signal: Tensor) -> Tensor:
        """Return 0 with the gradient of the squared residual, averaged over particles.

        The squared residual itself is not reported and may overflow.
        """
        remains = (signal / self.scale - self._expected()).detach()
        change = self.predicted - self.predicted.detach()
        return -2 * (self.scale * self.counted * remains * change).mean(-2).sum()

    def next_average(self, signal: Tensor) -> Tensor:
        """Compute c for the next step; masked data do not contribute."""
        old = self.average
        total = sum_of_batch((self.scale * self.counted).expand_as(signal).sum())
        mean = sum_of_batch((self.counted * signal).sum()) / total
        new = torch.where(old.isnan(), mean, DECAY * old + (1 - DECAY) * mean)
        return torch.where(total > 0, new, old).to(old)

    def _expected(self) -> Tensor:
        return self.average.nan_to_num(0.0) + self.predicted


def centring(
    draws: Draws, baseline: Any, average: Tensor, *data: Any, max_plate_nesting: int, **kwargs: Any
) -> Centring:
    """Compute the baseline of a batch.

    Args:
        draws: The draws for the batch.
        baseline: "average" or a network.
        average: The moving average c.
        data: Arguments of the programs and of the network.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: No latent needs the score function, sites have different scales, or the network
            does not return one number per datum.
    """
    scored = [site for site in draws.guide.values() if site.local and site.needs_score_function]
    if not scored:
        raise ValueError(
            "baseline should be None where no latent needs the score function, was "
            f"{name_of(baseline)} for a guide whose draws are all reparametrised"
        )
    device, n = scored[0].log_prob.device, scored[0].log_prob.shape[-1]
    predicted = torch.zeros((), device=device)
    if isinstance(baseline, nn.Module):
        predicted = _predicted(baseline(*data, **kwargs), n)
    counted = _counted(scored, max_plate_nesting)
    return Centring(average.to(device), predicted, _scale(draws), counted)


def _predicted(value: Any, n: int) -> Tensor:
    shape = tuple(value.shape) if isinstance(value, Tensor) else None
    if shape not in ((n,), (n, 1)):
        raise ValueError(
            f"baseline should be a network that gives each datum a number, shape ({n},) or "
            f"({n}, 1), gave {type(value).__name__ if shape is None else f'shape {shape}'}"
        )
    flat: Tensor = value.reshape(n)
    return flat


def _scale(draws: Draws) -> float | Tensor:
    """Return the common scale of all sites of a datum."""
    latents = [site for site in draws.guide.values() if not site.observed]
    sites = [site for site in (*draws.model.values(), *latents) if site.local]
    first = sites[0]
    for site in sites:
        if not same(site.scale, first.scale):
            raise ValueError(
                "baseline should be None for sites with scales of their own, had "
                f"{first.scale} ({first.name!r}) and {site.scale} ({site.name!r})"
            )
    return first.scale


def _counted(scored: list[Site], max_plate_nesting: int) -> Tensor:
    """Return 1 where one of the sites is not masked, and 0 elsewhere."""
    total = torch.zeros((), device=scored[0].log_prob.device)
    for site in scored:
        mask = torch.as_tensor(True if site.mask is None else site.mask).to(site.log_prob)
        total = total + per_datum(mask, max_plate_nesting)
    return (total > 0).to(scored[0].log_prob)


def check_baseline(baseline: Any) -> None:
    """Check that `baseline` is None, "average" or a network."""
    if baseline is None or isinstance(baseline, nn.Module):
        return
    if not (isinstance(baseline, str) and baseline == "average"):
        raise ValueError(
            f"baseline should be None, 'average' or a torch.nn.Module, was {name_of(baseline)}"
        )


def name_of(baseline: Any) -> str:
    """Return the name of a baseline in error messages."""
    if isinstance(baseline, type):
        return f"the class {baseline.__name__}"
    return type(baseline).__name__ if isinstance(baseline, nn.Module) else repr(baseline)


def description(baseline: Any) -> str | None:
    """Describe a network in one line; a `Network` is described by its arguments."""
    if not isinstance(baseline, nn.Module) or isinstance(baseline, Network):
        return None
    return " ".join(repr(baseline).split())
