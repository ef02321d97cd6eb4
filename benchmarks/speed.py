"""Milliseconds per training step: this library, compiled and eager, against others.

Each contender runs in a process of its own, in turn, for several rounds; the figure is the median
over rounds of the median step, and ratios are of one run of this script. All train the same
networks in single precision on one batch of random images: the time does not depend on them.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from by_hand import LadderByHand, M2ByHand, SBNByHand, VAEByHand
from torch import nn

Step = Callable[[], Any]
OURS = "ppl_vae compiled"


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        make: Model and objective of this library, from the module with its models and objectives.
        by_hand: The same in torch, a module whose `forward(x)` is the loss.
        batch: Images per batch.
        others: Contenders besides this library's and those by hand.
    """

    make: Callable[[Any, Any], tuple[Any, Any]]
    by_hand: Callable[[], nn.Module]
    batch: int = 100
    others: tuple[str, ...] = ()


def vae(hidden: int, batch: int = 100) -> Case:
    return Case(
        lambda models, inference: (models.VAE(784, 50, (hidden, hidden)), inference.ELBO()),
        lambda: VAEByHand(hidden),
        batch,
        ("Pyro SVI", "NumPyro SVI jit"),
    )


def iwae(k: int) -> Case:
    return Case(
        lambda models, inference: (models.VAE(784, 50, (200, 200)), inference.IWAE(k)),
        lambda: VAEByHand(200, k),
    )


CASES = {
    "vae-64": vae(64),
    "vae-200": vae(200),
    "vae-500": vae(500, 128),
    "iwae-1": iwae(1),
    "iwae-5": iwae(5),
    "iwae-50": iwae(50),
    "m2": Case(
        lambda models, inference: (models.M2(784, 10, 50, (500, 500)), inference.ELBO()),
        M2ByHand,
        128,
    ),
    "ladder": Case(
        lambda models, inference: (
            models.LadderVAE(
                784,
                (64, 32, 16, 8, 4),
                tuple((size, size) for size in (512, 256, 128, 64, 32)),
                batch_norm=False,
            ),
            inference.ELBO(),
        ),
        LadderByHand,
    ),
    "sbn": Case(
        lambda models, inference: (models.SBN(784, (200, 200, 200)), inference.VIMCO(5)),
        lambda: SBNByHand(5),
    ),
}


def images(case: Case) -> np.ndarray:
    pixels = np.random.default_rng(0).random((case.batch, 784)) < 0.3
    return pixels.astype(np.float32)


def ours(case: Case, compile: bool) -> Step:
    from ppl_vae import inference, models
    from ppl_vae.inference.step import svi_step

    model, objective = case.make(models, inference)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.as_tensor(images(case))
    step = svi_step(model, objective, optimizer, (x,), compile=compile)
    return lambda: step(x)


def by_hand(case: Case, compile: bool) -> Step:
    x, module = torch.as_tensor(images(case)), case.by_hand()
    loss_of: Any = torch.compile(module) if compile else module
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(x).backward()
        optimizer.step()

    return step


def pyro_svi(case: Case) -> Step:
    import pyro
    from pyro.infer import SVI, TraceMeanField_ELBO
    from pyro.optim import Adam

    from ppl_vae import inference, models

    model, _ = case.make(models, inference)
    svi = SVI(model.model, model.guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    x = torch.as_tensor(images(case))
    pyro.enable_validation(False)
    return lambda: svi.step(x)


def numpyro_svi(case: Case) -> Step:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.nn import softplus
    from numpyro.infer import SVI, Trace_ELBO

    x = jnp.asarray(images(case))
    hidden = next(iter(case.by_hand().parameters())).shape[0]

    def dense(name: str, value: Any, size: int) -> Any:
        shape = (value.shape[-1], size)
        scale = shape[0] ** -0.5

        def start(shape: tuple[int, ...] = shape) -> Any:
            key = numpyro.prng_key()
            return jax.random.uniform(key, shape, minval=-scale, maxval=scale)

        weight = numpyro.param(f"{name}.weight", lambda key: start())
        return value @ weight + numpyro.param(f"{name}.bias", jnp.zeros(size))

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(50), 1.0).to_event(1))
            h = softplus(dense("d2", softplus(dense("d1", z, hidden)), hidden))
            logits = dense("d3", h, 784)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        h = softplus(dense("e2", softplus(dense("e1", x, hidden)), hidden))
        loc, scale = dense("loc", h, 50), jnp.exp(0.5 * dense("log_var", h, 50))
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(jax.random.key(0), x)
    update = jax.jit(svi.update, donate_argnums=0)
    held = [state]

    def step() -> None:
        held[0], loss = update(held[0], x)
        loss.block_until_ready()

    return step


CONTENDERS: dict[str, Callable[[Case], Step]] = {
    OURS: lambda case: ours(case, True),
    "ppl_vae eager": lambda case: ours(case, False),
    "by hand, torch.compile": lambda case: by_hand(case, True),
    "by hand, eager": lambda case: by_hand(case, False),
    "Pyro SVI": pyro_svi,
    "NumPyro SVI jit": numpyro_svi,
}


def milliseconds(step: Step, seconds: float) -> float:
    """The median time of a step, over so many seconds after some steps for warming up."""
    for _ in range(5):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def compare(name: str, rounds: int, seconds: float) -> None:
    case = CASES[name]
    asked = [c for c in CONTENDERS if c in case.others or "ppl_vae" in c or "by hand" in c]
    found: dict[str, list[float]] = {contender: [] for contender in asked}
    for _ in range(rounds):
        for contender, times in found.items():
            flags = ["--cases", name, "--contender", contender, "--seconds", str(seconds)]
            command = [sys.executable, __file__, *flags]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            times.append(json.loads(run.stdout.splitlines()[-1]))
    medians = {contender: statistics.median(times) for contender, times in found.items()}
    print(f"\n{name}, batches of {case.batch}, {torch.get_num_threads()} threads")
    for contender, time_of_it in medians.items():
        ratio = medians[OURS] / time_of_it
        print(f"  {contender:24}{time_of_it:>10.3f} ms    ours / this: {ratio:.2f}")


def main(
    cases: tuple[str, ...] = tuple(CASES),
    contender: str = "",
    rounds: int = 3,
    seconds: float = 3.0,
) -> None:
    """Compares all contenders.

    Args:
        cases: Which cases.
        contender: Run this one alone, and print its milliseconds per step as JSON.
        rounds: Processes per contender.
        seconds: Time that each process measures.
    """
    for name in cases:
        if name not in CASES:
            raise SystemExit(f"cases should be of {', '.join(CASES)}, was {name!r}")
    if contender:
        step = CONTENDERS[contender](CASES[cases[0]])
        value = milliseconds(step, seconds)
        print(json.dumps(value if math.isfinite(value) else None))
        return
    for name in cases:
        compare(name, rounds, seconds)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
