"""How parameters follow their gradients, for both backends: torch's rules, names and defaults.

Below, w is a parameter, g its gradient (after clipping), t the number of the step, from 1, and lr
the step size, which is an argument of `fit` because it may be a schedule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import check_at_least, check_positive


def _is_factor(value: Any) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < 1


class Optimizer(Configurable):
    """The settings of a rule; each backend has the rule itself."""


@dataclass(frozen=True)
class _OfMoments(Optimizer):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        pair = isinstance(self.betas, Sequence) and len(self.betas) == 2
        if not (pair and all(map(_is_factor, self.betas))):
            raise ValueError(f"betas should be two numbers in [0, 1), was {self.betas!r}")
        object.__setattr__(self, "betas", tuple(self.betas))
        check_positive("eps", self.eps)
        check_at_least("weight_decay", self.weight_decay, 0.0)


@dataclass(frozen=True)
class Adam(_OfMoments):
    """Adam, as `torch.optim.Adam`.

        g <- g + weight_decay w
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        w <- w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    References:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980,
        algorithm 1.

    Args:
        betas: (b1, b2), each in [0, 1).
        eps: What is added to the root.
        weight_decay: The factor of the L2 penalty.

    Raises:
        ValueError: an argument is not such.
    """


ADAM = Adam()
"""What `fit` does by default."""


@dataclass(frozen=True)
class AdamW(_OfMoments):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`: `Adam` without its first line, and

        w <- (1 - lr weight_decay) w

    before the step.

    References:
        Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019, arXiv:1711.05101,
        algorithm 2.

    Differs from the paper: the decay is scaled by the step size, as torch does.

    Args:
        betas: (b1, b2), each in [0, 1).
        eps: What is added to the root.
        weight_decay: The decay of a step of size 1.

    Raises:
        ValueError: an argument is not such.
    """

    weight_decay: float = 1e-2


@dataclass(frozen=True)
class Adamax(_OfMoments):
    """Adam with the largest gradient in the place of the second moment, as `torch.optim.Adamax`.

        g <- g + weight_decay w
        m <- b1 m + (1 - b1) g,   u <- max(b2 u, |g| + eps)
        w <- w - lr m / (1 - b1^t) / u

    References:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980,
        algorithm 2.

    Differs from the paper: eps, which torch adds within the maximum.

    Args:
        betas: (b1, b2), each in [0, 1).
        eps: What is added to the size of the gradient.
        weight_decay: The factor of the L2 penalty.

    Raises:
        ValueError: an argument is not such.
    """


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, as `torch.optim.SGD`.

        g <- g + weight_decay w
        b <- momentum b + g   (b is g in the first step, as it would be from 0)
        w <- w - lr b,   with `nesterov` w - lr (g + momentum b)

    References:
        Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in deep
        learning", ICML 2013, section 2.

    Differs from the paper: the step size scales the whole step and not what is added to b, as torch
    does.

    Args:
        momentum: The factor of the steps before, in [0, 1).
        nesterov: Whether the step looks ahead; needs a momentum.
        weight_decay: The factor of the L2 penalty.

    Raises:
        ValueError: an argument is not such.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not _is_factor(self.momentum):
            raise ValueError(f"momentum should be a number in [0, 1), was {self.momentum!r}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum should be above 0 with nesterov, was 0")
        check_at_least("weight_decay", self.weight_decay, 0.0)


def check_stepping(optimizer: Any, clip_norm: Any) -> None:
    """Raises a ValueError unless these are an `Optimizer` and None or a positive number."""
    if not isinstance(optimizer, Adam | AdamW | Adamax | SGD):
        was = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else repr(optimizer)
        raise ValueError(
            "optimizer should be Adam(), AdamW(), Adamax() or SGD() of "
            f"ppl_vae.shared.training.optimizers, was {was}"
        )
    if clip_norm is not None:
        check_positive("clip_norm", clip_norm)
