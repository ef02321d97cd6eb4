"""A whole epoch of `fit` against its steps alone: `speed.py --cases fit-200 fit-500`.

`fit` trains on 10 000 images that are resampled in every batch of 100. After each of its epochs
the same process takes as many steps of `svi_step` on batches that are ready. An epoch of `fit` is
the time from the end of one such pause to the next: batches, steps, metrics, progress and, with
`out`, the checkpoint. The first one is left out because it includes compilation.
"""

import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from by_hand import PIXELS
from processes import Found, row
from speed_cases import device_of

N, BATCH, BAR = 10_000, 100, 1.08
CASES = {"fit-200": 200, "fit-500": 500}
CONTENDERS = {
    "compiled": (True, False),
    "compiled, with out": (True, True),
    "eager": (False, False),
    "eager, with out": (False, True),
}
"""Contender -> whether steps are compiled, and whether there is an `out`."""


def contenders_of(name: str, device: str) -> list[str]:
    return list(CONTENDERS)


def measure(name: str, contender: str, seconds: float, device: str) -> dict[str, float]:
    """Measure the seconds of the median epoch of `fit`, and of its steps alone."""
    from ppl_vae import fit
    from ppl_vae.data import Dynamic
    from ppl_vae.inference import ELBO
    from ppl_vae.models import VAE

    torch.manual_seed(0)
    compile, with_out = CONTENDERS[contender]
    images = np.random.default_rng(0).random((N, PIXELS), dtype=np.float32)
    pause = Pause(VAE(PIXELS, 50, (CASES[name],) * 2), images, compile, device)
    model = VAE(PIXELS, 50, (CASES[name],) * 2)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            Dynamic(images),
            ELBO(),
            epochs=3 + round(3 * seconds),
            batch_size=BATCH,
            device=device,
            compile=compile,
            validation=pause,
            out=folder if with_out else None,
        )
    return {"fit": statistics.median(pause.before), "steps": statistics.median(pause.seconds)}


class Pause:
    """A callback of `fit` that runs an epoch of steps alone, on a model of its own.

    Attributes:
        before: Seconds between one call and the next.
        seconds: Seconds of the steps in each call but the first.
    """

    def __init__(self, model: Any, images: np.ndarray, compile: bool, device: str) -> None:
        from ppl_vae.inference import ELBO
        from ppl_vae.inference.training.step import svi_step

        where = device_of(device)
        optimizer = torch.optim.Adam(model.to(where).parameters(), lr=1e-3, fused=True)
        self.batches = torch.bernoulli(torch.as_tensor(images[: 10 * BATCH])).to(where).split(BATCH)
        self.step = svi_step(model, ELBO(), optimizer, self.batches[:1], compile=compile)
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.before: list[float] = []
        self.seconds: list[float] = []
        self.ended: float | None = None

    def __call__(self, model: Any) -> dict[str, float]:
        self.wait()
        start = time.perf_counter()
        with torch.enable_grad():
            for number in range(N // BATCH):
                self.step(self.batches[number % len(self.batches)])
        self.wait()
        end = time.perf_counter()
        if self.ended is not None:
            self.before.append(start - self.ended)
            self.seconds.append(end - start)
        self.ended = end
        return {}


def table(name: str, found: Found, device: str) -> str:
    """Print the times of an epoch and their ratio."""
    heading = f"{name}: {N} images, batches of {BATCH}"
    lines = [f"{heading:46}{'ms per epoch':>12}{'fit/steps':>11}"]
    for contender, processes in found.values.items():
        whole, steps = found.median(contender, "fit"), found.median(contender, "steps")
        ratios = " ".join(f"{process['fit'] / process['steps']:.3f}" for process in processes)
        more = f"(its steps alone {1e3 * steps:.1f} ms; {ratios})"
        lines.append(row(f"fit, {contender}", f"{1e3 * whole:.1f}", whole / steps, BAR, more))
    return "\n".join(lines)
