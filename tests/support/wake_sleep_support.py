"""Helpers for `tests/objectives/test_wake_sleep.py` and its siblings."""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor


class Dreaming(Messenger):
    """Gives latent sites values of their own in the wake and in the sleep phase."""

    def __init__(self, awake: dict[str, Tensor], asleep: dict[str, Tensor]) -> None:
        super().__init__()
        self.awake, self.asleep = dict(awake), asleep

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["value"] is None and not msg["is_observed"] and name in self.asleep:
            # The guide draws first, and then the model.
            msg["value"] = self.awake.pop(name, self.asleep[name])
