"""The updates of torch's optimizers as tensor operations, on the state that torch keeps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer

from ppl_vae.inference.compilation.capture import CannotCapture
from ppl_vae.shared.training import optimizers

KINDS = (Adam, AdamW, Adamax, SGD)
"""AdamW is an Adam whose weight decay is apart from the gradient."""


def build_optimizer(settings: optimizers.Optimizer, parameters: Sequence[Tensor]) -> Optimizer:
    """torch's optimizer of the parameters, whose step size is set before each epoch."""
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
    elif parameters[0].is_cuda:  # which has no fused form, and else counts its steps on the CPU
        options["capturable"] = True
    return kind(parameters, **options)


def clipping(grads: Sequence[Tensor], norm: float) -> Tensor:
    """The factor of gradients that makes their norm at most this, as `clip_grad_norm_` has it."""
    total = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    return (norm / (total + 1e-6)).clamp(max=1.0)


def check_optimizer(optimizer: Optimizer) -> None:
    """Raises a `CannotCapture` unless the optimizer's update is one of those here."""
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
            # torch's first step is not damped.
            raise CannotCapture(
                f"dampening should be 0 for a step to be compiled, was {group['dampening']}"
            )


def initial_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What torch keeps of a parameter that was not yet stepped, by torch's names."""
    names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    if isinstance(optimizer, Adamax):
        names = ("exp_avg", "exp_inf")
    if isinstance(optimizer, SGD):
        names = ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    state = {name: torch.zeros_like(parameter, requires_grad=False) for name in names}
    if not isinstance(optimizer, SGD):
        there = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
        device = parameter.device if there else torch.device("cpu")
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
    """The parameter and its state after a step, in the place of these; nothing is written to.

    Args:
        optimizer: What is done.
        group: The parameter's group of the optimizer: its settings but for the step size.
        lr: The step size, a scalar in double precision.
        parameter: Its value.
        grad: Its gradient.
        state: What the optimizer keeps of it.
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
    # 1 - beta^step is small at first. Arrays in double precision would take twice the time.
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
