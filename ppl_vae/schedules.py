"""Numbers that change during training, as functions of the epoch alone, for both backends."""

from typing import Any

from ppl_vae.arguments import Remembers
from ppl_vae.checks import check_fraction, check_whole


class Warmup(Remembers):
    """A weight that grows linearly and then is 1: start + (1 - start) min(1, epoch / epochs).

    The first epoch is number 1 and not weighted by `start`, so that all is trained in it.

    References:
        Sønderby, Raiko, Maaløe, Sønderby & Winther, "Ladder variational autoencoders", NeurIPS
        2016, arXiv:1602.02282, section 2.3 (`epochs` is its N_t); Bowman et al., "Generating
        sentences from a continuous space", CoNLL 2016, arXiv:1511.06349, section 3.1.

    Args:
        epochs: The first epoch of weight 1.
        start: The weight before the first epoch, in [0, 1].
    """

    def __init__(self, epochs: int, start: float = 0.0) -> None:
        check_whole("epochs", epochs, 1)
        check_fraction("start", start)
        self.epochs, self.start = epochs, start

    def __call__(self, epoch: Any) -> Any:
        """The weight in the epoch, a number or what a compiled program has in its place."""
        going = epoch < self.epochs  # a comparison and not min(): jax traces the epoch
        return going * (self.start + (1 - self.start) * epoch / self.epochs) + (1 - going)
