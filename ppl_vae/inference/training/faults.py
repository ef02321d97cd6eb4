"""Detection of parameters without gradients and of non-finite sites and gradients."""

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
    """A non-finite loss or gradient.

    Attributes:
        indices: The batch's indices in the data set.
        batch: The batch.
    """

    def __init__(self, message: str, indices: Tensor, batch: tuple[Tensor, ...]) -> None:
        super().__init__(message)
        self.indices = as_numpy(indices)
        self.batch = [as_numpy(part) for part in batch]


def check_finite_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise a ValueError that names the first parameter with NaN or infinity."""
    for name, parameter in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"parameter {name!r} should be finite, held NaN or infinity")


def check_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """Check after the first backward pass that every trained parameter has a gradient.

    Raises:
        ValueError: Some have none and would never be trained.

    Warns:
        UserWarning: Some gradients are exactly zero, for example because the estimator does not
            suit the latent variables (or, rarely, because of an initialisation with zeros).
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
    """Repeat a step with the same draws and describe the first non-finite number."""
    detector = _FaultDetector()
    with detector:
        loss, _ = step.batch_loss.whole(step.epoch, step.state, data)
    fault = _first_gradient(step, loss) if loss.isfinite() else detector.fault
    return describe(where, loss.item(), fault)


def _first_gradient(step: "Step", loss: Tensor) -> str | None:
    """Describe the first parameter whose gradient is not finite."""
    trained = {name: p for name, p in step.parameters.items() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    for name, grad in zip(trained, grads, strict=True):
        kind = None if grad is None else _kind_of_fault(grad)
        if kind is not None:
            return of_parameter(name, kind)
    return None


def _kind_of_fault(value: Tensor) -> str | None:
    if bool(value.isfinite().all()):
        return None
    return "NaN" if bool(value.isnan().any()) else "infinite"


class _FaultDetector(Messenger):
    """An effect handler that describes the first non-finite sample site."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.fault is not None or not hasattr(msg["fn"], "log_prob"):
            return
        fn = msg["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        values = {name: getattr(fn, name, None) for name in getattr(fn, "arg_constraints", {})}
        values["value"] = msg["value"]
        values["log density"] = msg["fn"].log_prob(msg["value"])
        for name, value in values.items():
            kind = _kind_of_fault(value) if isinstance(value, Tensor) else None
            if kind is not None:
                self.fault = of_site(msg["name"], name, kind)
                return
