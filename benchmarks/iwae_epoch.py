"""An epoch of IWAE in `fit`, against a torch loop hand-written for this computation.

Both train Burda's VAE (784-200-200-50, tanh) on 10 000 images of 28x28 pixels (random ones: the
time does not depend on them), batches of 100, dynamic binarisation, K particles in one vectorised
pass, and fused Adam. `fit` also writes metrics and a checkpoint. Each contender runs in a process
of its own, in turn; the figure is the median epoch.
"""

import math
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from processes import compare_epochs, report
from torch import Tensor, nn

N, PIXELS, Z_DIM, HIDDEN, BATCH, LR = 10_000, 784, 50, 200, 100, 1e-3


def data() -> np.ndarray:
    return np.random.default_rng(0).random((N, PIXELS), dtype=np.float32)


def ppl_vae_epochs(epochs: int, k: int) -> list[float]:
    from ppl_vae import fit
    from ppl_vae.data import Dynamic
    from ppl_vae.inference import IWAE
    from ppl_vae.models import VAE

    model = VAE(PIXELS, Z_DIM, (HIDDEN, HIDDEN), "tanh")
    with tempfile.TemporaryDirectory() as out:
        settings = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "out": out}
        history = fit(model, Dynamic(data()), IWAE(k), **settings)
    return list(history["seconds"])


class ByHand(nn.Module):
    """The same model in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
        )
        self.loc, self.log_var = nn.Linear(HIDDEN, Z_DIM), nn.Linear(HIDDEN, Z_DIM)
        self.decoder = nn.Sequential(
            nn.Linear(Z_DIM, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, PIXELS),
        )

    def loss(self, x: Tensor, k: int) -> Tensor:
        h = self.encoder(x)
        loc, log_var = self.loc(h), self.log_var(h)
        noise = torch.randn(k, *loc.shape)
        z = loc + (0.5 * log_var).exp() * noise
        logits = self.decoder(z)
        target = x.expand_as(logits)
        log_p_x = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        log_w = log_p_x + 0.5 * (noise**2 + log_var - z**2).sum(-1)
        return -(log_w.logsumexp(0) - math.log(k)).mean()


def by_hand_epochs(epochs: int, k: int) -> list[float]:
    x = torch.as_tensor(data())
    model = ByHand()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        total = 0.0
        for batch in torch.randperm(N).split(BATCH):
            optimizer.zero_grad()
            loss = model.loss(torch.bernoulli(x[batch]), k)
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


CONTENDERS = {"by hand": by_hand_epochs, "ppl_vae fit": ppl_vae_epochs}


def main(contender: str = "", epochs: int = 2, rounds: int = 3, k: int = 50) -> None:
    """Compare both.

    Args:
        contender: Contender to run alone, printing its seconds per epoch as JSON.
        epochs: Epochs per process.
        rounds: Processes per contender.
        k: Number of particles.
    """
    if contender:
        report(CONTENDERS[contender](epochs, k))
        return
    print(f"IWAE-{k} 784-200-200-50, {N} images, batch {BATCH}, {torch.get_num_threads()} threads")
    flags = {"epochs": epochs, "k": k}
    medians = compare_epochs(__file__, CONTENDERS, rounds, flags)
    print(f"ratio {medians['ppl_vae fit'] / medians['by hand']:.3f} (bar: at most 1.15)")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
