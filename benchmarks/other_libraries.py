"""The training step of other libraries: Pyro's and NumPyro's SVI, pythae, Pixyz."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from by_hand import PIXELS, softplus_mlp
from processes import LeftOut
from speed_cases import Case
from torch import Tensor, nn

Step = Callable[[], Any]
Z_DIM = 50


def installed(*names: str) -> list[Any]:
    """Import modules.

    Raises:
        LeftOut: a module is not installed.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            raise LeftOut(f"{error.name} is not installed") from error
    return modules


def pyro_svi(case: Case, device: torch.device) -> Step:
    """Return a step of Pyro's own SVI and objective, without Pyro's validation."""
    import pyro
    from pyro.infer import SVI
    from pyro.optim import Adam

    from ppl_vae import models

    assert case.pyro is not None
    model = case.model(models).to(device)
    svi = SVI(model.model, model.guide, Adam({"lr": 1e-3}), case.pyro(pyro.infer))
    x = torch.as_tensor(case.images(), device=device)
    pyro.enable_validation(False)
    return lambda: svi.step(x)


def numpyro_svi(case: Case, device: torch.device) -> Step:
    """Return a step of NumPyro's own SVI and objective, under jit with donated state."""
    numpyro, infer, jax, models = installed(
        "numpyro", "numpyro.infer", "jax", "ppl_vae.numpyro.models"
    )
    assert case.numpyro is not None
    x = jax.numpy.asarray(case.images())
    pair = case.model(models, key=jax.random.key(0))
    svi = infer.SVI(pair.model, pair.guide, numpyro.optim.Adam(1e-3), case.numpyro(infer))
    update = jax.jit(svi.update, donate_argnums=0)
    held = [svi.init(jax.random.key(1), x)]

    def step() -> None:
        held[0], loss = update(held[0], x)
        loss.block_until_ready()

    return step


class Encoder(nn.Module):
    """Encoder of the libraries below: x -> loc and log variance of z, as in `VAEByHand`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(softplus_mlp(PIXELS, hidden, hidden), nn.Softplus())
        self.loc, self.log_var = nn.Linear(hidden, Z_DIM), nn.Linear(hidden, Z_DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.loc(h), self.log_var(h)


def decoder(hidden: int) -> nn.Module:
    """Decoder of the libraries below: z -> means of the pixels."""
    return nn.Sequential(softplus_mlp(Z_DIM, hidden, hidden, PIXELS), nn.Sigmoid())


def pythae_loss(hidden: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return pythae's VAE and its loss of x."""
    models, networks, base = installed(
        "pythae.models", "pythae.models.nn", "pythae.models.base.base_utils"
    )

    class Q(networks.BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = Encoder(hidden)

        def forward(self, x: Tensor) -> Any:
            loc, log_var = self.net(x)
            return base.ModelOutput(embedding=loc, log_covariance=log_var)

    class P(networks.BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = decoder(hidden)

        def forward(self, z: Tensor) -> Any:
            return base.ModelOutput(reconstruction=self.net(z))

    config = models.VAEConfig(input_dim=(PIXELS,), latent_dim=Z_DIM, reconstruction_loss="bce")
    model = models.VAE(config, Q(), P())
    return model, lambda x: model({"data": x}).loss


def pythae_vae(case: Case, device: torch.device) -> Step:
    """Return a hand-written step with pythae's loss; its own trainer adds overhead."""
    assert case.hidden is not None
    model, loss = pythae_loss(case.hidden)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.as_tensor(case.images(), device=device)

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return step


def pixyz_model(hidden: int) -> Any:
    """Pixyz's VAE, which steps by `train({"x": x})`."""
    distributions, losses, models = installed("pixyz.distributions", "pixyz.losses", "pixyz.models")

    class Q(distributions.Normal):
        def __init__(self) -> None:
            super().__init__(var=["z"], cond_var=["x"], name="q")
            self.net = Encoder(hidden)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            loc, log_var = self.net(x)
            return {"loc": loc, "scale": (0.5 * log_var).exp()}

    class P(distributions.Bernoulli):
        def __init__(self) -> None:
            super().__init__(var=["x"], cond_var=["z"], name="p")
            self.net = decoder(hidden)

        def forward(self, z: Tensor) -> dict[str, Tensor]:
            return {"probs": self.net(z)}

    q = Q()
    at, of = torch.zeros(()), torch.ones(())
    prior = distributions.Normal(loc=at, scale=of, var=["z"], features_shape=[Z_DIM], name="prior")
    settings = {"lr": 1e-3, "fused": True}
    kl = losses.KullbackLeibler(q, prior)
    return models.VAE(q, P(), regularizer=kl, optimizer_params=settings)


def pixyz_vae(case: Case, device: torch.device) -> Step:
    assert case.hidden is not None
    model = pixyz_model(case.hidden)
    x = torch.as_tensor(case.images(), device=device)
    # Pixyz keeps what it made of a tensor, and takes the same one for the same batch.
    return lambda: model.train({"x": x.view_as(x)})
