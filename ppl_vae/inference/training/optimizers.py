"""The updates of torch's optimizers as tensor operations on torch's own optimizer state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer

from ppl_vae.inference.compilation.private_torch import CannotCapture
from ppl_vae.shared.training import optimizers

KINDS = (Adam, AdamW, Adamax, SGD)
"""AdamW is Adam with decoupled weight decay."""


def build_optimizer(settings: optimizers.Optimizer, parameters: Sequence[Tensor]) -> Optimizer:
    """Make torch's optimizer of the parameters; its learning rate is set before each epoch."""
    kinds: dict[type, Callable[..., Optimizer]] = {
        optimizers.Adam: Adam,
        optimizers.AdamW: AdamW,
        optimizers.Adamax: Adamax,
        optimizers.SGD: SGD,
    }
    kind = kinds[type(settings)]
    options: dict[str, Any] = dict(settings.arguments)
    if kind is not Adamax:
        options["fused"] = True
    elif parameters[0].is_cuda:  # Adamax has no fused form and would count its steps on the CPU
        options["capturable"] = True
    return kind(parameters, **options)


def all_finite(loss: Tensor, grads: Sequence[Tensor]) -> Tensor:
    """Return whether the loss and all gradients are finite, a boolean scalar."""
    return torch.stack([loss.isfinite(), *(g.abs().amax().isfinite() for g in grads)]).all()


def clip_factor(grads: Sequence[Tensor], norm: float) -> Tensor:
    """Compute the factor that limits the norm of the gradients, as in `clip_grad_norm_`."""
    total = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    return (norm / (total + 1e-6)).clamp(max=1.0)


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise a `CannotCapture` unless the optimizer's update is one of those here."""
    names = [kind.__name__ for kind in KINDS]
    if type(optimizer) not in KINDS:
        raise CannotCapture(
            f"optimizer should be {', '.join(names)} to be compiled, was {type(optimizer).__name__}"
        )
    for group in optimizer.param_groups:
        for option in ("amsgrad", "maximize", "differentiable"):
            if group.get(option):
                raise CannotCapture(f"{option} should be False for a step to be compiled, was True")
        if group.get("dampening"):
            # torch does not dampen the first step.
            raise CannotCapture(
                f"dampening should be 0 for a step to be compiled, was {group['dampening']}"
            )


def initial_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return the optimizer state of a parameter before its first update, by torch's names."""
    names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    if isinstance(optimizer, Adamax):
        names = ("exp_avg", "exp_inf")
    if isinstance(optimizer, SGD):
        names = ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    state = {name: torch.zeros_like(parameter, requires_grad=False) for name in names}
    if not isinstance(optimizer, SGD):
        on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
        device = parameter.device if on_device else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
    return state


def apply_update(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    lr: Tensor,
    parameter: Tensor,
    grad: Tensor,
    state: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute a parameter and its optimizer state after an update; nothing is changed in place.

    Args:
        optimizer: The optimizer.
        group: The parameter's group: all options except the learning rate.
        lr: The learning rate, a scalar in double precision.
        parameter: The parameter.
        grad: The gradient.
        state: The optimizer state of the parameter.
    """
    decay = group["weight_decay"]
    if isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay"):
        parameter = parameter * (1 - lr * decay).to(parameter) if decay else parameter
    elif decay:
        grad = grad + decay * parameter
    if isinstance(optimizer, SGD):
        return _sgd(group, lr, parameter, grad, state)
    step = state["step"] + 1
    beta_1, beta_2 = group["betas"]
    mean = torch.lerp(state["exp_avg"], grad, 1 - beta_1)
    new = {"step": step, "exp_avg": mean}
    # Scalars in double precision: 1 - beta^step is small at first.
    exact = step.double()
    size = (lr / (1 - beta_1**exact)).to(parameter)
    if isinstance(optimizer, Adamax):
        new["exp_inf"] = torch.maximum(beta_2 * state["exp_inf"], grad.abs() + group["eps"])
        return parameter - size * mean / new["exp_inf"], new
    new["exp_avg_sq"] = beta_2 * state["exp_avg_sq"] + (1 - beta_2) * grad * grad
    root = new["exp_avg_sq"].sqrt() / (1 - beta_2**exact).sqrt().to(parameter)
    return parameter - size * mean / (root + group["eps"]), new


def _sgd(
    group: Mapping[str, Any],
    lr: Tensor,
    parameter: Tensor,
    grad: Tensor,
    state: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    lr = lr.to(parameter)
    if not group["momentum"]:
        return parameter - lr * grad, {}
    buffer = group["momentum"] * state["momentum_buffer"] + grad
    direction = grad + group["momentum"] * buffer if group["nesterov"] else buffer
    return parameter - lr * direction, {"momentum_buffer": buffer}
