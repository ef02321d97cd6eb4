"""Finding what is at fault: parameters without gradients, and the first site that is not finite."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


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


def first_fault(loss: Callable[[], Tensor]) -> str:
    """Runs `loss` again and says which site is the first to be not finite."""
    tap = _Tap()
    with tap, torch.no_grad():
        loss()
    return tap.fault or "every site was finite when the batch was run again"


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
            if isinstance(value, Tensor) and not bool(value.isfinite().all()):
                kind = "NaN" if bool(value.isnan().any()) else "infinite"
                self.fault = f"first site at fault: {msg['name']!r}, whose {what} is {kind}"
                return
