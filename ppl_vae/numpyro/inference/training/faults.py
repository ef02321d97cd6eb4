"""See `ppl_vae.inference.training.faults`."""

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
    """See `ppl_vae.inference.training.faults.Fault`."""

    def __init__(self, message: str, indices: Array, batch: tuple[Array, ...]) -> None:
        super().__init__(message)
        self.indices = np.asarray(indices)
        self.batch = [np.asarray(part) for part in batch]


def check_finite_parameters(parameters: Mapping[str, Array]) -> None:
    """See `ppl_vae.inference.training.faults.check_finite_parameters`."""
    for name, value in parameters.items():
        if not bool(jnp.isfinite(value).all()):
            raise ValueError(f"parameter {name!r} should be finite, held NaN or infinity")


def check_gradients(
    loss: Callable[..., Array], parameters: Mapping[str, Array], *inputs: Any
) -> None:
    """See `ppl_vae.inference.training.faults.check_gradients`."""
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
    """Return the names of the parameters that number(parameters, *inputs) depends on.

    In JAX the gradient of the others is zero, as it may be by chance for a parameter that is used.
    The two are told apart by the gradient's jaxpr: for the others it does not depend on any input.
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
    """Warn of parameters whose gradient was zero in every batch of the first epoch."""
    zero = [name for name, was_moved in moved.items() if not bool(was_moved)]
    if zero:
        warnings.warn(
            f"the gradient of these parameters is exactly zero: {', '.join(zero)}", stacklevel=2
        )


def diagnose(
    loss: float, loss_of: Callable[[Any], Array], parameters: Mapping[str, Array], where: str
) -> str:
    """Describe the fault of a step by running it again with the same draws, uncompiled.

    Args:
        loss: The loss of the step.
        loss_of: The loss as a function of the parameters of the step.
        parameters: The parameters of the step.
        where: The epoch and the batch, in words.
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
