"""Finding what is at fault, as `ppl_vae.inference.training.faults`."""

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

from ppl_vae.numpyro.inference.draws import unwrap
from ppl_vae.shared.training.faults import describe, of_parameter, of_site


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
    """After the first epoch, of `StepStatus`: which gradients were zero in every batch."""
    zero = [name for name, was_moved in moved.items() if not bool(was_moved)]
    if zero:
        warnings.warn(
            f"the gradient of these parameters is exactly zero: {', '.join(zero)}", stacklevel=2
        )


def found(
    loss: float, loss_of: Callable[[Any], Array], parameters: Mapping[str, Array], where: str
) -> str:
    """What is wrong with a step, which is run again with the same draws, and not compiled.

    Args:
        loss: The loss.
        loss_of: Gives it again, of the parameters that were stepped.
        parameters: These.
        where: The epoch and the batch.
    """
    # NumPyro's own checks would raise at the first NaN and name neither site nor parameter.
    with numpyro.validation_enabled(False):
        if np.isfinite(loss):
            return describe(where, loss, _first_gradient(loss_of, parameters))
        tap = _Tap()
        with tap:
            loss_of(parameters)
    return describe(where, loss, tap.fault)


def _first_gradient(loss_of: Callable[[Any], Array], parameters: Mapping[str, Array]) -> str | None:
    """The first parameter whose gradient is not finite."""
    for name, gradient in jax.grad(loss_of)(dict(parameters)).items():
        kind = _kind_of_fault(gradient)
        if kind is not None:
            return of_parameter(name, kind)
    return None


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
        fn, _ = unwrap(msg["fn"])
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        looked_at = {name: vars(fn).get(name) for name in fn.arg_constraints}
        looked_at["value"] = msg["value"]
        looked_at["log density"] = msg["fn"].log_prob(msg["value"])
        for what, value in looked_at.items():
            kind = None if value is None else _kind_of_fault(value)
            if kind is not None:
                self.fault = of_site(msg["name"], what, kind)
                return
