"""Time and memory of log p(x): importance sampling of 10 000 images, AIS of 100.

The model is Burda's VAE (784-200-200-50, tanh), the data are MNIST's binarised test images.
Without --model the weights are random; the time does not depend on them. Each contender runs in a
process of its own, one after the other.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import tyro

from ppl_vae import log_likelihood, mnist
from ppl_vae.models import VAE

CONTENDERS = {
    "importance sampling, 10 000 images, K = 5000": (10_000, {"k": 5000}),
    "importance sampling, 10 000 images, K = 50": (10_000, {"k": 50}),
    "importance sampling, 100 images, K = 5000": (100, {"k": 5000}),
    "AIS, 100 images, 16 chains, 1000 temperatures": (100, {"method": "ais"}),
}


def measure(name: str, model: Path | None) -> None:
    """Measure one contender: time, estimate, and peak memory of the process."""
    torch.manual_seed(0)
    vae = VAE(784, 50, (200, 200), "tanh") if model is None else VAE.load(model)
    n, settings = CONTENDERS[name]
    x = mnist("dynamic").test.x[:n]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    estimate = log_likelihood(vae, x, **settings)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = [seconds, str(estimate), before / 2**20, after / 2**20]
    print(json.dumps(facts))


def main(contender: str = "", model: Path | None = None) -> None:
    """Measure all contenders.

    Args:
        contender: Contender to run alone, printing its figures as JSON.
        model: File of a trained model.
    """
    if contender:
        measure(contender, model)
        return
    print(f"VAE 784-200-200-50, MNIST test images, {torch.get_num_threads()} threads")
    given = [] if model is None else ["--model", str(model)]
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--contender", name, *given]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, estimate, before, after = json.loads(run.stdout.splitlines()[-1])
        print(f"{name}: {seconds:.0f} s, {estimate} nats, largest memory {after:.2f} GB")
        print(f"    (of which {before:.2f} GB before it began)")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
