"""Finding what is at fault: parameters without gradients, and the first site that is not finite."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae.shared.checks import as_numpy
from ppl_vae.shared.training.faults import describe, of_parameter, of_site

if TYPE_CHECKING:
    from ppl_vae.inference.training.step import Step


class Fault(FloatingPointError):
    """A loss or a gradient that is not finite.

    Attributes:
        indices: The places of the batch's data in the data set.
        batch: The batch.
    """

    def __init__(self, message: str, indices: Tensor, batch: tuple[Tensor, ...]) -> None:
        super().__init__(message)
        self.indices = as_numpy(indices)
        self.batch = [as_numpy(part) for part in batch]


def check_finite_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raises a ValueError that names a parameter which holds NaN or infinity."""
    for name, parameter in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"parameter {name!r} should be finite, held NaN or infinity")


def check_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """After the first step: every parameter that is trained has received a gradient.

    Raises:
        ValueError: some have none, so that they would never be trained.

    Warns:
        UserWarning: some gradients are exactly zero, as an estimator that does not fit the latent
            variables gives (and, rarely, an initialisation with zeros).
    """
    trained = [(name, p) for name, p in parameters.items() if p.requires_grad]
    absent = [name for name, p in trained if p.grad is None]
    if absent:
        raise ValueError(
            f"every parameter should receive a gradient, but these did not: {', '.join(absent)}. "
            "Use them in model or guide, or freeze them with requires_grad_(False)"
        )
    zero = [name for name, p in trained if p.grad is not None and not bool(p.grad.any())]
    if zero:
        warnings.warn(
            f"the gradient of these parameters is exactly zero: {', '.join(zero)}", stacklevel=2
        )


def diagnose(step: "Step", data: Sequence[Tensor], where: str) -> str:
    """What is wrong with the step of these data, which is run again with the same draws."""
    tap = _Tap()
    with tap:
        loss, _ = step.batch_loss.whole(step.epoch, step.state, data)
    fault = _first_gradient(step, loss) if loss.isfinite() else tap.fault
    return describe(where, loss.item(), fault)


def _first_gradient(step: "Step", loss: Tensor) -> str | None:
    """The first parameter whose gradient is not finite."""
    own = {name: p for name, p in step.parameters.items() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    for name, grad in zip(own, grads, strict=True):
        kind = None if grad is None else _kind_of_fault(grad)
        if kind is not None:
            return of_parameter(name, kind)
    return None


def _kind_of_fault(value: Tensor) -> str | None:
    if bool(value.isfinite().all()):
        return None
    return "NaN" if bool(value.isnan().any()) else "infinite"


class _Tap(Messenger):
    """Looks at every sample site of whatever runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.fault is not None or not hasattr(msg["fn"], "log_prob"):
            return
        fn = msg["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        looked_at = {name: getattr(fn, name, None) for name in getattr(fn, "arg_constraints", {})}
        looked_at["value"] = msg["value"]
        looked_at["log density"] = msg["fn"].log_prob(msg["value"])
        for what, value in looked_at.items():
            kind = _kind_of_fault(value) if isinstance(value, Tensor) else None
            if kind is not None:
                self.fault = of_site(msg["name"], what, kind)
                return
