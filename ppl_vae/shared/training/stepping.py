"""How a run updates parameters from gradients: arguments of `fit`, for both backends."""

from dataclasses import dataclass
from typing import Any

from ppl_vae.shared.checks import check_positive
from ppl_vae.shared.schedules import Schedule
from ppl_vae.shared.training.faults import check_on_nan
from ppl_vae.shared.training.history import plain
from ppl_vae.shared.training.optimizers import ADAM, Optimizer, check_stepping


@dataclass(frozen=True)
class Stepping:
    """The arguments of `fit` of these names.

    Raises:
        ValueError: An argument is invalid.
    """

    lr: float | Schedule = 1e-3
    optimizer: Optimizer = ADAM
    clip_norm: float | None = None
    on_nan: str = "stop"

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Schedule):
            check_positive("lr", self.lr)
        check_stepping(self.optimizer, self.clip_norm)
        check_on_nan(self.on_nan)

    def lr_at(self, epoch: Any) -> Any:
        """Return the learning rate of an epoch, which may be a traced number."""
        return self.lr(epoch) if isinstance(self.lr, Schedule) else self.lr

    def described(self) -> dict[str, Any]:
        """Return the settings that a resumed run shares with its first part, as JSON values.

        Without `on_nan`, so that a run that stopped can go on by another policy.
        """
        return {
            "lr": plain(self.lr),
            "optimizer": plain(self.optimizer),
            "clip_norm": self.clip_norm,
        }
