"""An epoch of M2 in `fit`, against a torch loop hand-written for this computation.

Both train on 50 000 images of 28x28 pixels (random ones: the time does not depend on them), of
which 100 have labels, with two hidden layers of 500, z of 50, batches of 200 unlabelled images and
100 labelled ones, dynamic binarisation, one particle, the exact sum over ten classes, and fused
Adam. Both compute the first layer's product with x once per image. `fit` also writes metrics and a
checkpoint. Each contender runs in a process of its own, in turn; the figure is the median epoch.
"""

import tempfile
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from processes import compare_epochs, report
from torch import Tensor, nn

N, LABELLED, PIXELS, CLASSES, Z_DIM, HIDDEN, BATCH = 50_000, 100, 784, 10, 50, 500, 200
ALPHA, LR = 0.1, 3e-4


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.full(N, -1)
    y[:LABELLED] = np.arange(LABELLED) % CLASSES
    return rng.random((N, PIXELS), dtype=np.float32), y


def ppl_vae_epochs(epochs: int) -> list[float]:
    from ppl_vae import M2, SemiSupervised, fit
    from ppl_vae.data import Dynamic

    x, y = data()
    model = M2(PIXELS, CLASSES, Z_DIM, (HIDDEN, HIDDEN))
    with tempfile.TemporaryDirectory() as out:
        objective = SemiSupervised(ALPHA, labelled_per_batch=LABELLED)
        history = fit(model, (Dynamic(x), y), objective, epochs=epochs, batch_size=BATCH, out=out)
    return list(history["seconds"])


class ByHand(nn.Module):
    """The same model in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.q_y = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN),
            nn.Softplus(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Softplus(),
            nn.Linear(HIDDEN, CLASSES),
        )
        self.q_x, self.q_label = nn.Linear(PIXELS, HIDDEN), nn.Linear(CLASSES, HIDDEN, bias=False)
        self.q_h = nn.Linear(HIDDEN, HIDDEN)
        self.loc, self.log_var = nn.Linear(HIDDEN, Z_DIM), nn.Linear(HIDDEN, Z_DIM)
        self.p_z, self.p_label = nn.Linear(Z_DIM, HIDDEN), nn.Linear(CLASSES, HIDDEN, bias=False)
        self.p_h = nn.Linear(HIDDEN, HIDDEN)
        self.logits = nn.Linear(HIDDEN, PIXELS)

    def bound(self, x: Tensor, one_hot: Tensor) -> Tensor:
        """Return -L(x, y), of the broadcast leading shape of x and one_hot."""
        h = F.softplus(self.q_h(F.softplus(self.q_x(x) + self.q_label(one_hot))))
        loc, log_var = self.loc(h), self.log_var(h)
        noise = torch.randn_like(loc)
        z = loc + (0.5 * log_var).exp() * noise
        h = F.softplus(self.p_h(F.softplus(self.p_z(z) + self.p_label(one_hot))))
        logits = self.logits(h)
        target = x.expand_as(logits)
        log_p_x = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        log_p_z_minus_log_q_z = 0.5 * (noise**2 + log_var - z**2).sum(-1)
        return log_p_x + log_p_z_minus_log_q_z - float(np.log(CLASSES))

    def loss(self, x_l: Tensor, y_l: Tensor, x_u: Tensor, fraction: float) -> Tensor:
        labels = torch.eye(CLASSES)
        log_q = F.log_softmax(self.q_y(x_u), -1)
        per_class = self.bound(x_u, labels[:, None]).T
        unlabelled = (log_q.exp() * (per_class - log_q)).sum(-1).mean()
        labelled = self.bound(x_l, labels[y_l]).mean()
        classification = F.cross_entropy(self.q_y(x_l), y_l)
        return -(1 - fraction) * unlabelled - fraction * labelled + ALPHA * classification


def by_hand_epochs(epochs: int) -> list[float]:
    x, y = (torch.as_tensor(part) for part in data())
    model = ByHand()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        total = 0.0
        for batch in batches(len(x)):
            optimizer.zero_grad()
            x_l, x_u = torch.bernoulli(x[:LABELLED]), torch.bernoulli(x[batch])
            loss = model.loss(x_l, y[:LABELLED], x_u, LABELLED / N)
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def batches(n: int) -> Iterator[Tensor]:
    return iter((LABELLED + torch.randperm(n - LABELLED)).split(BATCH))


CONTENDERS = {"by hand": by_hand_epochs, "ppl_vae fit": ppl_vae_epochs}


def main(contender: str = "", epochs: int = 2, rounds: int = 2) -> None:
    """Compare both.

    Args:
        contender: Contender to run alone, printing its seconds per epoch as JSON.
        epochs: Epochs per process.
        rounds: Processes per contender.
    """
    if contender:
        report(CONTENDERS[contender](epochs))
        return
    print(f"M2 784-500-500-50, {N} images, batch {BATCH}, {torch.get_num_threads()} threads")
    medians = compare_epochs(__file__, CONTENDERS, rounds, {"epochs": epochs})
    print(f"ratio {medians['ppl_vae fit'] / medians['by hand']:.3f} (bar: at most 1.2)")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
