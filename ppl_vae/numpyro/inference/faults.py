"""Finding what is at fault, as `ppl_vae.inference.faults`."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.extend.core import Literal
from numpyro.primitives import Messenger

from ppl_vae.numpyro.inference.draws import peel


class Fault(FloatingPointError):
    """A loss or a gradient that is not finite.

    Attributes:
        indices: The places of the batch's data in the data set.
        batch: The batch.
    """

    def __init__(self, message: str, indices: Array, batch: tuple[Array, ...]) -> None:
        super().__init__(message)
        self.indices = np.asarray(indices)
        self.batch = [np.asarray(part) for part in batch]


def check_finite_parameters(parameters: Mapping[str, Array]) -> None:
    """Raises a ValueError that names a parameter which holds NaN or infinity."""
    for name, value in parameters.items():
        if not bool(jnp.isfinite(value).all()):
            raise ValueError(f"parameter {name!r} should be finite, held NaN or infinity")


def check_gradients(
    loss: Callable[..., Array], parameters: Mapping[str, Array], *inputs: Any
) -> None:
    """Before the first step: every parameter will receive a gradient of loss(parameters, *inputs).

    Raises:
        ValueError: some will receive none, so that they would never be trained.
    """
    found = depended_on(loss, parameters, *inputs)
    absent = [name for name in sorted(parameters) if name not in found]
    if absent:
        raise ValueError(
            f"every parameter should receive a gradient, but these did not: {', '.join(absent)}. "
            "Use them in model or guide"
        )


def depended_on(
    number: Callable[..., Array], parameters: Mapping[str, Array], *inputs: Any
) -> list[str]:
    """Names of the parameters that number(parameters, *inputs) depends on.

    Of the others the gradient is zeros in JAX, like that of one that happens to be flat; what tells
    them apart is that these zeros are computed from nothing.
    """
    jaxpr = jax.make_jaxpr(jax.grad(number))(parameters, *inputs).jaxpr
    computed = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in computed for v in equation.invars):
            computed.update(equation.outvars)
    return [
        name  # in the order in which jax flattens a dictionary
        for name, gradient in zip(sorted(parameters), jaxpr.outvars, strict=True)
        if not isinstance(gradient, Literal) and gradient in computed
    ]


def warn_of_zeros(moved: Mapping[str, Array]) -> None:
    """After the first epoch, of `Health`: which gradients were zero in every batch."""
    zero = [name for name, was_moved in moved.items() if not bool(was_moved)]
    if zero:
        warnings.warn(
            f"the gradient of these parameters is exactly zero: {', '.join(zero)}", stacklevel=2
        )


def describe(
    loss: float, loss_of: Callable[[Any], Array], parameters: Mapping[str, Array], where: str
) -> str:
    """What is wrong with a step whose loss or gradient is not finite.

    Args:
        loss: The loss.
        loss_of: Gives it again, of the parameters that were stepped.
        parameters: These.
        where: The epoch and the batch.
    """
    if not np.isfinite(loss):
        return f"loss should be finite, was {loss} at {where}; {first_fault(loss_of, parameters)}"
    # NumPyro's own checks would raise at the first NaN.
    with numpyro.validation_enabled(False):
        gradient = jax.grad(loss_of)(dict(parameters))
    says = "every gradient was finite when the batch was run again"
    for name, value in gradient.items():
        kind = _kind_of_fault(value)
        if kind is not None:
            says = f"first parameter at fault: {name!r}, whose gradient is {kind}"
            break
    return f"gradient should be finite, was not at {where}, of the loss {loss:g}; {says}"


def first_fault(loss_of: Callable[[Any], Array], parameters: Mapping[str, Array]) -> str:
    """Runs the loss again, not compiled, and says which site is the first to be not finite."""
    tap = _Tap()
    # NumPyro's own checks would raise at the first NaN and not name the site.
    with numpyro.validation_enabled(False), tap:
        loss_of(parameters)
    return tap.fault or "every site was finite when the batch was run again"


def _kind_of_fault(value: Any) -> str | None:
    if np.isfinite(value).all():
        return None
    return "NaN" if np.isnan(value).any() else "infinite"


class _Tap(Messenger):  # type: ignore[misc]
    """Looks at every sample site of whatever runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None

    def postprocess_message(self, msg: Any) -> None:
        if self.fault is not None or msg["type"] != "sample":
            return
        fn, _ = peel(msg["fn"])
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        looked_at = {name: vars(fn).get(name) for name in fn.arg_constraints}
        looked_at["value"] = msg["value"]
        looked_at["log density"] = msg["fn"].log_prob(msg["value"])
        for what, value in looked_at.items():
            kind = None if value is None else _kind_of_fault(value)
            if kind is not None:
                self.fault = f"first site at fault: {msg['name']!r}, whose {what} is {kind}"
                return
