"""What `test_distributed.py` runs in one process and in several: small fits, by their names."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from support import CASE, make, objective_of
from torch import Tensor, nn

from ppl_vae import Model, fit
from ppl_vae.data import Dynamic
from ppl_vae.inference import ELBO, GECO, Lagging
from ppl_vae.inference.objectives.parts.baselines import BaselineNet
from ppl_vae.inference.training import step_graph
from ppl_vae.models import VAE, Classifier
from ppl_vae.models.networks.conditionals import CategoricalNet
from ppl_vae.shared.io.safetensors_file import write
from ppl_vae.shared.objectives.free_bits import FreeBits

Arrays = dict[str, np.ndarray]
Job = Callable[[Path], Arrays]
RANK = int(os.environ.get("RANK", "0"))
VAE_CASE, SBN = CASE["vae"], CASE["vimco"]


def trained(model: Model, data: Any, objective: Any = None, **settings: Any) -> Arrays:
    """Loss of every epoch and the weights, in double precision, of batches of 7, 7, 7 and 3."""
    given = {"epochs": 2, "batch_size": 7, "lr": 1e-2, "device": "cpu", "progress": False}
    model = model.double()
    history = fit(model, data, objective, **{**given, **settings})
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    return {"loss": history["loss"], **weights}


def case(name: str) -> Job:
    return lambda out: trained(make(CASE[name]), CASE[name].data(0), objective_of(CASE[name]))


def vae(objective: Callable[[], Any], **settings: Any) -> Job:
    return lambda out: trained(make(VAE_CASE), VAE_CASE.data(0), objective(), **settings)


def pixels() -> Dynamic:
    return Dynamic(0.1 + 0.8 * VAE_CASE.data(0)[0])


def files(out: Path, **more: Any) -> Arrays:
    """A run that leaves files, of each process in a folder of its own; another seed than others."""
    validation = VAE_CASE.data(1)
    settings = {"out": out / f"rank{RANK}", "validation": validation, "progress": True, "seed": 5}
    return trained(make(VAE_CASE), pixels(), label="files", **{**settings, **more})


def baseline(out: Path) -> Arrays:
    network = BaselineNet(6, (4,))
    objective = ELBO(5, baseline=network)
    arrays = trained(make(SBN), SBN.data(0), objective)
    return {**arrays, **{f"C.{n}": v.numpy().copy() for n, v in network.state_dict().items()}}


def dropout(out: Path) -> Arrays:
    network = CategoricalNet(6, 3, (5, 4), dropout=(0.2, 0.5))
    return trained(Classifier(6, 3, classifier=network), CASE["classifier"].data(0))


class Convolutional(Model):
    """Dropout of activations (N, 3, 4, 4); the two processes have 3 and 4 rows of a batch of 7."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Conv2d(1, 3, 2), nn.Dropout(0.2), nn.Conv2d(3, 3, 1), nn.Dropout2d(0.2)
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0))

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(self.net(x), 1.0), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        pass


def conv_dropout(out: Path) -> Arrays:
    rng = np.random.default_rng(0)
    model = Convolutional()
    return trained(model, (rng.normal(size=(24, 1, 5, 5)), rng.normal(size=24)), epochs=1)


def recorded(out: Path) -> Arrays:
    """Steps as graphs, as they were recorded."""
    compiled = step_graph.compile_graph
    step_graph.compile_graph = lambda program, inputs: torch.no_grad()(program)
    try:
        case = CASE["m2-semi-supervised"]
        return trained(make(case), case.data(0), objective_of(case), compile=True)
    finally:
        step_graph.compile_graph = compiled


class Gammas(Model):
    """Latents that are drawn by rejection."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim = 6
        self.rate, self.scale = nn.Linear(6, 2), nn.Linear(2, 6)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(2).to(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.scale(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(self.rate(x).exp(), 1.0).to_event(1))


def gammas(out: Path) -> Arrays:
    return trained(Gammas(), VAE_CASE.data(0))


def stopped(out: Path) -> Arrays:
    """SIGTERM to the last process in the second epoch; then the run goes on."""
    last = int(os.environ.get("WORLD_SIZE", "1")) == RANK + 1
    batches: list[int] = []

    class Stopping(ELBO):
        def loss_and_state(self, *arguments: Any, **kwargs: Any) -> Any:
            batches.append(1)
            if last and len(batches) == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss_and_state(*arguments, **kwargs)

    def run(**settings: Any) -> Arrays:
        folder = out / "stopped"
        return trained(make(VAE_CASE), pixels(), Stopping(), out=folder, epochs=3, **settings)

    code = 0
    try:
        run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return {**run(resume=True), "code": np.array(code)}


class Squared(ELBO):
    """A loss that is no sum over data."""

    def loss_and_state(self, *arguments: Any, **kwargs: Any) -> Any:
        loss, state = super().loss_and_state(*arguments, **kwargs)
        return loss**2, state


class Shared(VAE):
    """A latent that all data share."""

    def model(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros_like(x[0, 0]), 1.0))
        super().model(x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros_like(x[0, 0]), 1.0))
        super().guide(x)


class Averages(VAE):
    """A running mean of the rows that a process has."""

    def __init__(self) -> None:
        super().__init__(6, 2, (5, 4))
        self.register_buffer("mean", torch.zeros(()))

    def guide(self, x: Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * x.mean()
        super().guide(x)


def refused(out: Path) -> Arrays:
    """Not what is trained, but the errors."""
    attempts: dict[str, Callable[[], Any]] = {
        "sum": lambda: trained(make(VAE_CASE), VAE_CASE.data(0), Squared()),
        "global": lambda: trained(Shared(6, 2, (5, 4)), VAE_CASE.data(0)),
        "buffer": lambda: trained(Averages(), VAE_CASE.data(0)),
        "data": lambda: trained(make(VAE_CASE), VAE_CASE.data(RANK)),
        "seed": lambda: trained(make(VAE_CASE), VAE_CASE.data(0), seed=RANK),
        "resume": lambda: trained(make(VAE_CASE), pixels(), out=out / "stopped", resume=True),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            found[name] = np.frombuffer(str(error).encode(), np.uint8).copy()
    return found


JOBS: dict[str, Job] = {
    **{name: case(name) for name in ("vae", "vimco", "m2-semi-supervised", "ladder-beta")},
    **{name: case(name) for name in ("rws", "m1-m2-semi-supervised")},
    "geco": vae(lambda: GECO(3.0, update="geco", rate=0.1)),
    "files": files,
    "free-bits": vae(lambda: ELBO(free_bits=2.0)),
    "free-bits-of-units": vae(lambda: ELBO(analytic_kl=True, free_bits=FreeBits(0.3))),
    "lagging": vae(lambda: Lagging(max_steps=4, window=2, subset=20)),
    "clipped": vae(ELBO, clip_norm=0.1),
    "average": lambda out: trained(make(SBN), SBN.data(0), ELBO(5, baseline="average")),
    "baseline": baseline,
    "dropout": dropout,
    "conv-dropout": conv_dropout,
    "recorded": recorded,
    "gammas": gammas,
    "stopped": stopped,
    "refused": refused,
}


def main(out: Path, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        pyro.set_rng_seed(RANK)  # processes begin with other weights, where nothing seeds them
        write(out / f"{name}.{RANK}.safetensors", JOBS[name](out), {})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
