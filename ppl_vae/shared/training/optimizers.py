"""Update rules for both backends, with the rules, names and defaults of torch.

Below, w is a parameter, g its gradient (after clipping), t the step number, from 1, and lr the
learning rate, a separate argument of `fit` because it may be a schedule.
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
    """Settings of an update rule, which each backend implements."""


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
        eps: Constant added to the square root.
        weight_decay: Coefficient of the L2 penalty.

    Raises:
        ValueError: An argument is invalid.
    """


ADAM = Adam()
"""The default of `fit`."""


@dataclass(frozen=True)
class AdamW(_OfMoments):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`: `Adam` without its first line, and

        w <- (1 - lr weight_decay) w

    before the step.

    References:
        Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019, arXiv:1711.05101,
        algorithm 2.

    Differs from the paper: the decay is scaled by the learning rate, as in torch.

    Args:
        betas: (b1, b2), each in [0, 1).
        eps: Constant added to the square root.
        weight_decay: Decay per step at learning rate 1.

    Raises:
        ValueError: An argument is invalid.
    """

    weight_decay: float = 1e-2


@dataclass(frozen=True)
class Adamax(_OfMoments):
    """Adam with an infinity norm in place of the second moment, as `torch.optim.Adamax`.

        g <- g + weight_decay w
        m <- b1 m + (1 - b1) g,   u <- max(b2 u, |g| + eps)
        w <- w - lr m / (1 - b1^t) / u

    References:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980,
        algorithm 2.

    Differs from the paper: eps is added inside the maximum, as in torch.

    Args:
        betas: (b1, b2), each in [0, 1).
        eps: Constant added to the absolute gradient.
        weight_decay: Coefficient of the L2 penalty.

    Raises:
        ValueError: An argument is invalid.
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

    Differs from the paper: the learning rate scales the whole step and not the increment of b, as
    in torch.

    Args:
        momentum: Momentum coefficient, in [0, 1).
        nesterov: Whether to use Nesterov momentum; requires a positive momentum.
        weight_decay: Coefficient of the L2 penalty.

    Raises:
        ValueError: An argument is invalid.
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
    """Check that `optimizer` is an `Optimizer`, and `clip_norm` None or positive."""
    if not isinstance(optimizer, Adam | AdamW | Adamax | SGD):
        was = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else repr(optimizer)
        raise ValueError(
            "optimizer should be Adam(), AdamW(), Adamax() or SGD() of "
            f"ppl_vae.shared.training.optimizers, was {was}"
        )
    if clip_norm is not None:
        check_positive("clip_norm", clip_norm)
