"""Cases of the speed comparisons: pairs and objectives, hand-written equivalents, and bars."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from by_hand import PIXELS, LadderByHand, M2ByHand, SBNByHand, VAEByHand
from torch import nn

COMPILED = "by hand, torch.compile"
COMPILED_KEPT = "by hand, torch.compile, freed memory kept"
EAGER = "by hand, eager"
GRAPH = "by hand, CUDA graph"
PYRO, NUMPYRO, PYTHAE, PIXYZ = "Pyro SVI", "NumPyro SVI jit", "pythae", "Pixyz"


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        model: Function of `ppl_vae.models`, or of `ppl_vae.numpyro.models` and a key: the pair.
        objective: What is minimised, from `ppl_vae.inference`.
        by_hand: Equivalent in plain torch, a module whose `forward(x)` is the loss per datum.
        batch: Batch size.
        pyro: The objective from `pyro.infer`, if it is there.
        numpyro: The objective from `numpyro.infer`, if it is there.
        hidden: The width, of a VAE that other libraries have too.
        bars: Contender -> largest acceptable ratio of our time to its time on a CPU.
        gpu_bars: The same on a GPU.
    """

    model: Callable[..., Any]
    objective: Callable[[Any], Any]
    by_hand: Callable[[], nn.Module]
    batch: int = 100
    pyro: Callable[[Any], Any] | None = None
    numpyro: Callable[[Any], Any] | None = None
    hidden: int | None = None
    bars: dict[str, float] = field(default_factory=dict)
    gpu_bars: dict[str, float] = field(default_factory=dict)

    def images(self) -> np.ndarray:
        """Return a batch of random images; the time does not depend on them."""
        pixels = np.random.default_rng(0).random((self.batch, PIXELS)) < 0.3
        return pixels.astype(np.float32)


def at_most(compiled: float, **others: float) -> dict[str, float]:
    """Bars: `compiled` for what is compiled by hand, whether it keeps freed memory or not."""
    named = {"pyro": PYRO, "numpyro": NUMPYRO, "eager": EAGER}
    return {COMPILED: compiled, COMPILED_KEPT: compiled} | {named[k]: v for k, v in others.items()}


def vae(sizes: tuple[int, ...], batch: int = 100, k: int = 1, **settings: Any) -> Case:
    """Return a case: 784-sizes-50 by the ELBO or the importance weighted bound."""
    many = {"alpha": 0, "num_particles": k}
    return Case(
        lambda models, **key: models.VAE(PIXELS, 50, sizes, **key),
        lambda inference: inference.ELBO() if k == 1 else inference.IWAE(k),
        lambda: VAEByHand(sizes, k),
        batch,
        lambda infer: (
            infer.TraceMeanField_ELBO()
            if k == 1
            else infer.RenyiELBO(**many, vectorize_particles=True, max_plate_nesting=1)
        ),
        lambda infer: infer.Trace_ELBO() if k == 1 else infer.RenyiELBO(**many),
        **settings,
    )


def ladder(models: Any, **key: Any) -> Any:
    sizes = ((512, 512), (256, 256), (128, 128), (64, 64), (32, 32))
    return models.LadderVAE(PIXELS, (64, 32, 16, 8, 4), sizes, batch_norm=False, **key)


CASES = {
    "vae-64": vae((64, 64), hidden=64, bars=at_most(0.80, pyro=0.35, numpyro=1.05)),
    "vae-200": vae(
        (200, 200),
        hidden=200,
        bars=at_most(0.92, pyro=0.50),
        gpu_bars={PYRO: 1 / 20, GRAPH: 1.05},
    ),
    "vae-500": vae((500, 500), 128, hidden=500, bars=at_most(1.00, pyro=0.70)),
    "iwae-1": Case(
        lambda models, **key: models.VAE(PIXELS, 50, (200, 200), **key),
        lambda inference: inference.IWAE(1),
        lambda: VAEByHand((200, 200)),
        pyro=lambda infer: infer.Trace_ELBO(),
        numpyro=lambda infer: infer.Trace_ELBO(),
    ),
    "iwae-5": vae((200, 200), k=5),
    "iwae-50": vae((200, 200), k=50, bars=at_most(1.05), gpu_bars={GRAPH: 1.05}),
    "m2": Case(
        lambda models, **key: models.M2(PIXELS, 10, 50, (500, 500), **key),
        lambda inference: inference.ELBO(),
        M2ByHand,
        128,
        lambda infer: infer.TraceEnum_ELBO(max_plate_nesting=1),
        bars=at_most(0.5, eager=0.5),
    ),
    "ladder": Case(
        ladder,
        lambda inference: inference.ELBO(),
        LadderByHand,
        pyro=lambda infer: infer.TraceMeanField_ELBO(),
        numpyro=lambda infer: infer.Trace_ELBO(),
        bars=at_most(1.05),
    ),
    "sbn": Case(
        lambda models, **key: models.SBN(PIXELS, (200, 200, 200), **key),
        lambda inference: inference.VIMCO(5),
        lambda: SBNByHand(5),
        bars=at_most(1.05),
    ),
}

GROWTH = {
    "batch": {n: vae((200, 200), n) for n in (16, 64, 256, 1024)},
    "K": {k: vae((200, 200), k=k) for k in (1, 4, 16, 64)},
    "width": {size: vae((size, size)) for size in (32, 128, 512, 1024)},
    "depth": {layers: vae((200,) * layers) for layers in (1, 2, 4, 8)},
}
"""Growth of the cost: variations of 784-200-200-50 with batches of 100, one at a time."""


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        SystemExit: there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("device cuda: torch sees no CUDA device here, so nothing was measured")
    return torch.device(name)
