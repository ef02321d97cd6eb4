"""Helpers for `tests/evaluation/test_ais.py` and its siblings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy.special import gammaln, logsumexp
from scipy.stats import nbinom, norm
from torch import Tensor, nn

from ppl_vae.models import Model
from ppl_vae.shared.evaluation.estimates import Estimate


class Program(Model):
    """A model alone, in double precision."""

    def __init__(self, program: Callable[..., None], x_dim: int = 1) -> None:
        super().__init__()
        self.x_dim, self.program = x_dim, program
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.double))

    def model(self, *data: Tensor) -> None:
        self.program(*data)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.double)


def two_layers(x: Tensor) -> None:
    """x ~ N(0, 2.5^2 + 0.3^2 + 0.5^2) per entry, but for the means."""
    with pyro.plate("data", len(x)):
        z_2 = pyro.sample("z_2", dist.Normal(zeros(1), 1.0).to_event(1))
        z_1 = pyro.sample("z_1", dist.Normal(2.5 * z_2[..., 0] + 1, 0.3))
        pyro.sample("x", dist.Normal(z_1, 0.5), obs=x[:, 0])


def rates(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.5 * torch.ones_like(x[:, 0]), 0.7))
        pyro.sample("x", dist.Poisson(rate), obs=x[:, 0])


def shares(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        share = pyro.sample(
            "share", dist.Dirichlet(torch.tensor([0.9, 2.0, 3.5], dtype=torch.double))
        )
        pyro.sample("x", dist.Multinomial(probs=share, validate_args=False), obs=x)


def below(x: Tensor) -> None:
    """A support that depends on another latent variable."""
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.LogNormal(torch.zeros_like(x[:, 0]), 0.5))
        z = pyro.sample("z", dist.Uniform(-top, 2 * top))
        pyro.sample("x", dist.Normal(z, 0.6), obs=x[:, 0])


def inner(x: Tensor) -> None:
    """Three latents in a plate within a datum, and one for all of them."""
    with pyro.plate("data", len(x)):
        m = pyro.sample("m", dist.Normal(zeros(), 1.0))
        with pyro.plate("inner", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(m, 0.8))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)


def clusters(x: Tensor) -> None:
    """The class, which is summed over, says where z is."""
    with pyro.plate("data", len(x)):
        probs = torch.tensor([0.3, 0.7], dtype=torch.double)
        y = pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(torch.tensor([-0.5, 0.8], dtype=torch.double)[y], 0.6))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def masked(x: Tensor) -> None:
    """What is masked does not count, and a scale is not that of the density."""
    with pyro.plate("data", len(x)), poutine.scale(scale=3.0):
        z = pyro.sample("z", dist.Normal(zeros(), 1.0))
        with poutine.mask(mask=x[:, 0] < 2):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def log_p_of_two_layers(x: np.ndarray) -> np.ndarray:
    return norm.logpdf(x[:, 0], 1, (2.5**2 + 0.3**2 + 0.5**2) ** 0.5)


def log_p_of_rates(x: np.ndarray) -> np.ndarray:
    return nbinom.logpmf(x[:, 0], 2.5, 0.7 / 1.7)


def log_p_of_shares(x: np.ndarray) -> np.ndarray:
    a, n = np.array([0.9, 2.0, 3.5]), x.sum(-1)
    log_p = gammaln(a.sum()) + gammaln(n + 1) - gammaln(n + a.sum())
    return log_p + (gammaln(x + a) - gammaln(a) - gammaln(x + 1)).sum(-1)


def log_p_of_below(x: np.ndarray) -> np.ndarray:
    """The integral over z is one of the normal distribution, that over top a sum."""
    log_top = np.linspace(-4, 4, 4001)
    top = np.exp(log_top)[:, None]
    over_z = (norm.cdf((2 * top - x.T) / 0.6) - norm.cdf((-top - x.T) / 0.6)) / (3 * top)
    weight = norm.pdf(log_top, 0, 0.5) * (log_top[1] - log_top[0])
    return np.log(weight @ over_z)


def log_p_of_inner(x: np.ndarray) -> np.ndarray:
    covariance = np.eye(3) * (0.8**2 + 0.5**2) + 1
    square = (x @ np.linalg.inv(covariance) * x).sum(-1)
    return -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])


def log_p_of_clusters(x: np.ndarray) -> np.ndarray:
    spread = (0.6**2 + 0.5**2) ** 0.5
    return logsumexp(norm.logpdf(x, [-0.5, 0.8], spread) + np.log([0.3, 0.7]), axis=-1)


def log_p_of_masked(x: np.ndarray) -> np.ndarray:
    return np.where(x[:, 0] < 2, norm.logpdf(x[:, 0], 0, 1.25**0.5), 0)


COLUMN = [[-1.0], [0.4], [3.0]]


EXACT = {
    "two_layers": (two_layers, log_p_of_two_layers, COLUMN),
    "rates": (rates, log_p_of_rates, [[0.0], [3.0], [11.0]]),
    "shares": (shares, log_p_of_shares, [[1.0, 1.0, 2.0], [0.0, 0.0, 4.0], [4.0, 0.0, 0.0]]),
    "below": (below, log_p_of_below, COLUMN),
    "inner": (inner, log_p_of_inner, [[-1.0, 0.2, 1.0], [2.0, 2.0, 2.5]]),
    "clusters": (clusters, log_p_of_clusters, COLUMN),
    "masked": (masked, log_p_of_masked, COLUMN),
}


FEW: dict[str, Any] = {"method": "ais", "leapfrog_steps": 3, "adaptation": 20}


def assert_unbiased_weights(estimate: Estimate, truth: Any, precision: float) -> None:
    """The mean of w is p(x), within standard errors small enough that a wrong one is seen."""
    assert (estimate.errors < precision).all(), estimate.errors
    ratio = np.exp(estimate.values - np.asarray(truth))  # its standard error: estimate.errors
    assert (abs(ratio - 1) < 4 * estimate.errors + 1e-5).all(), (ratio, estimate.errors)


def conditional(c: Tensor, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)
