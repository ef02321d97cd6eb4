"""VHP and GECO's bound of its prior, against linear Gaussian closed forms and sums by hand."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.poutine.messenger
import pytest
import torch
from support import assert_same, assert_unbiased, gradients
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppl_vae import ELBO
from ppl_vae.inference import GECO
from ppl_vae.models import VHP, DiagNormalNet

N, X_DIM, Z_DIM, ZETA_DIM = 4, 3, 2, 2
BETA = 0.25  # in float32 as well
LOG_2PI = math.log(2 * math.pi)


def linear(exact: bool = False) -> VHP:
    """Every factor is linear with a constant scale; if `exact`, q(zeta | z) is p(zeta | z)."""
    decoder = DiagNormalNet(Z_DIM, X_DIM, ())
    model = VHP(X_DIM, Z_DIM, ZETA_DIM, (), decoder=decoder).double()
    for name, parameter in model.named_parameters():
        if name.endswith("log_var.weight"):
            parameter.detach().zero_()
            parameter.requires_grad_(False)
    if exact:
        with torch.no_grad():
            set_posterior(model)
    return model


def set_posterior(model: VHP, noise: float = 0.4) -> None:
    loading = torch.linalg.qr(torch.randn(Z_DIM, ZETA_DIM, dtype=torch.double))[0]
    weight = loading * torch.tensor([1.5, 0.7])
    model.prior.loc.weight.copy_(weight)
    model.prior.log_var.bias.fill_(math.log(noise))
    variance = 1 / (1 + (weight**2).sum(0) / noise)
    gain = variance[:, None] * weight.T / noise
    model.zeta_encoder.loc.weight.copy_(gain)
    model.zeta_encoder.loc.bias.copy_(-gain @ model.prior.loc.bias)
    model.zeta_encoder.log_var.bias.copy_(variance.log())


def data() -> Tensor:
    return torch.randn(N, X_DIM, dtype=torch.double)


def trained(model: VHP) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


class Noise(pyro.poutine.messenger.Messenger):
    """Latent sites are loc + scale * eps, with these eps in the order in which they are drawn."""

    def __init__(self, *eps: Tensor) -> None:
        super().__init__()
        self.eps = list(eps)

    def _pyro_sample(self, msg: Any) -> None:
        if hasattr(msg["fn"], "event_shape") and not msg["is_observed"] and msg["value"] is None:
            eps = self.eps.pop(0)
            assert eps.shape == msg["fn"].shape()
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * eps


def log_normal(x: Tensor, loc: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (LOG_2PI + log_var + (x - loc) ** 2 * (-log_var).exp()).sum(-1)


def through(network: DiagNormalNet, value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of a linear network, written out."""
    return value @ network.loc.weight.T + network.loc.bias, network.log_var.bias


def by_hand(model: VHP, x: Tensor, eps: Tensor, inner_eps: Tensor) -> tuple[Tensor, Tensor]:
    """C and KL of each datum at noise of shapes (N, z_dim) and (K, N, zeta_dim)."""
    loc, log_var = through(model.encoder, x)
    z = loc + (0.5 * log_var).exp() * eps
    log_q = log_normal(z, loc, log_var)
    loc, log_var = through(model.zeta_encoder, z)
    zeta = loc + (0.5 * log_var).exp() * inner_eps
    log_w = log_normal(z, *through(model.prior, zeta)) - log_normal(zeta, loc, log_var)
    log_w = log_w + log_normal(zeta, *torch.zeros(2, 1, dtype=torch.double))
    reconstruction = -log_normal(x, *through(model.decoder, z))
    return reconstruction, log_q - log_w.exp().mean(0).log()


def noise(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of z; of zeta, which the first run draws and does not use; and of the k draws of zeta."""
    shapes = ((N, Z_DIM), (N, ZETA_DIM), (k, N, ZETA_DIM) if k > 1 else (N, ZETA_DIM))
    first, unused, inner = (torch.randn(shape, dtype=torch.double) for shape in shapes)
    return first, unused, inner


@pytest.mark.parametrize("k", [1, 3])
def test_the_bound_and_its_gradients_by_hand(k: int) -> None:
    model, x, (eps, unused, inner) = linear(), data(), noise(k)
    objective = GECO(1.0, inner=("zeta",), k=k, start=BETA)

    def ours() -> Tensor:
        with Noise(eps, unused, inner):
            return objective.differentiable_loss(model.model, model.guide, x)

    def expected() -> Tensor:
        reconstruction, kl = by_hand(model, x, eps, inner.reshape(k, N, ZETA_DIM))
        return (reconstruction + BETA * kl).sum()

    assert_same(gradients(ours, trained(model)), gradients(expected, trained(model)))


def test_without_inner_sites_all_draws_are_averaged() -> None:
    model, x = linear(), data()
    pyro.set_rng_seed(1)
    expected = ELBO(k=3, beta=BETA).loss(model.model, model.guide, x)
    pyro.set_rng_seed(1)
    found = GECO(1.0, k=3, start=BETA).loss(model.model, model.guide, x)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_with_the_exact_posterior_the_bound_is_the_density_of_the_prior(k: int) -> None:
    model, x, (eps, unused, inner) = linear(exact=True), data(), noise(k)
    objective = GECO(1.0, inner=("zeta",), k=k)
    with Noise(eps, unused, inner):
        _, kl = objective.per_datum(model.model, model.guide, x)
    loc, log_var = through(model.encoder, x)
    z = loc + (0.5 * log_var).exp() * eps
    log_p = log_prior(model, z)
    torch.testing.assert_close(kl, log_normal(z, loc, log_var) - log_p, rtol=1e-9, atol=1e-9)


def log_prior(model: VHP, z: Tensor) -> Tensor:
    """log p(z), with zeta integrated out."""
    w, bias = model.prior.loc.weight, model.prior.loc.bias
    return MultivariateNormal(bias, w @ w.T + model.prior.log_var.bias.exp().diag()).log_prob(z)


def test_the_bound_rises_with_k_towards_the_density() -> None:
    model, x, repeats = linear(), data()[:1].expand(2000, X_DIM), 2000
    means, errors = [], []
    with torch.no_grad():
        for k in (1, 4, 50):
            objective = GECO(1.0, inner=("zeta",), k=k)
            _, kl = objective.per_datum(model.model, model.guide, x)
            means.append(kl.mean())
            errors.append(kl.std() / repeats**0.5)
        loc, log_var = through(model.encoder, x)
        z = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
        exact = log_normal(z, loc, log_var) - log_prior(model, z)
    assert means[0] > means[1] + 4 * (errors[0] + errors[1])
    assert means[1] > means[2]
    assert means[2] > exact.mean() - 4 * (errors[2] + exact.std() / repeats**0.5)
    assert means[1] - exact.mean() < 0.5 * (means[0] - exact.mean())


def expectation(value: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    """E[value(eps)] over eps ~ N(0, I), exact for quadratic functions."""
    points = torch.cat([torch.eye(dim), -torch.eye(dim)]).double() * dim**0.5
    return torch.stack([value(point) for point in points]).mean(0)


@pytest.mark.parametrize(("k", "exact"), [(1, False), (4, True)])
def test_the_gradient_is_unbiased(k: int, exact: bool) -> None:
    """With any q(zeta | z) for k = 1, and with the exact one, where k plays no part, for k = 4."""
    model, x = linear(exact), data()
    objective = GECO(1.0, inner=("zeta",), k=k, start=BETA)

    def at(point: Tensor) -> Tensor:
        eps, inner = point[:Z_DIM].expand(N, -1), point[Z_DIM:].expand(1, N, -1)
        reconstruction, kl = by_hand(model, x, eps, inner)
        return (reconstruction + BETA * kl).sum()

    def stacked(loss: Callable[[], Tensor], seed: int) -> Tensor:
        return torch.cat([g.flatten() for g in gradients(loss, trained(model), seed)])

    expected = stacked(lambda: expectation(at, Z_DIM + ZETA_DIM), 0)
    draws = [
        stacked(lambda: objective.differentiable_loss(model.model, model.guide, x), seed)
        for seed in range(400)
    ]
    assert_unbiased(torch.stack(draws), expected)


def test_the_prior_is_the_part_of_the_networks_it_is_named_for() -> None:
    model = VHP(5, 3, 2, (4,))
    inputs = {name: network.trunk.layers[0].weight.shape[1] for name, network in parts(model)}
    assert inputs == {"prior": 2, "encoder": 5, "zeta_encoder": 3, "decoder": 3}
    assert {name: tuple(v.shape) for name, v in model.sample(7).items()} == {
        "zeta": (7, 2),
        "z": (7, 3),
        "x": (7, 5),
    }


def parts(model: VHP) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in model.named_children() if name != "hyperprior"]
