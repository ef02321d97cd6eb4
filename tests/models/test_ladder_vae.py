"""LadderVAE against closed forms of linear Gaussian layers, and against the VAE."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from hierarchical_vae_support import LOG_2PI, add_noise, pad, push
from pyro import poutine
from support import assert_same, assert_unbiased, gradients
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ppl_vae import ELBO
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.models import VAE, DiagNormalNet, LadderVAE, Network
from ppl_vae.models.ladder_vae import merge

N, X_DIM, Z_DIMS = 4, 4, (3, 2, 2)


def normal(*shape: int, dim: int = 3) -> dist.Independent:
    loc, scale = torch.randn(*shape, dim).double(), torch.rand(*shape, dim).double() + 0.2
    return dist.Independent(dist.Normal(loc, scale), 1)


def test_merge_is_the_normalised_product() -> None:
    a, b = normal(4), normal(5, 1)
    merged = merge(a, b)
    assert merged.batch_shape == (5, 4)
    z = torch.randn(6, 5, 4, 3, dtype=torch.double)
    # The product of two densities is a density times a factor, that of N(mu_a; mu_b, sum of both).
    spread = (a.variance + b.variance).sqrt()
    factor = dist.Normal(b.mean, spread).log_prob(a.mean).sum(-1)
    product = a.log_prob(z) + b.log_prob(z)
    torch.testing.assert_close(merged.log_prob(z), product - factor, rtol=0, atol=1e-10)
    swapped = merge(b, a)
    torch.testing.assert_close(swapped.mean, merged.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(swapped.stddev, merged.stddev, rtol=0, atol=1e-12)


def test_merge_integrates_to_one() -> None:
    a, b = normal(dim=1), normal(dim=1)
    z = torch.linspace(-30, 30, 200_001, dtype=torch.double)[:, None]
    product = (a.log_prob(z) + b.log_prob(z)).exp()
    product = product / torch.trapezoid(product, z[:, 0])
    torch.testing.assert_close(merge(a, b).log_prob(z).exp(), product, rtol=1e-8, atol=1e-12)


def test_merge_with_one_that_says_nothing_is_the_other() -> None:
    a = normal(4)
    vague = dist.Independent(dist.Normal(torch.tensor(5.0).double(), 1e8).expand((4, 3)), 1)
    merged = merge(a, vague)
    torch.testing.assert_close(merged.mean, a.mean)
    torch.testing.assert_close(merged.stddev, a.stddev)


def linear(z_dims: tuple[int, ...] = Z_DIMS) -> LadderVAE:
    """Every factor is linear with a constant scale: p and q are jointly normal."""
    decoder = DiagNormalNet(z_dims[0], X_DIM, ())
    model = LadderVAE(X_DIM, z_dims, ((),) * len(z_dims), decoder=decoder).double()
    for name, parameter in model.named_parameters():
        if name.endswith("log_var.weight"):
            parameter.detach().zero_()
            parameter.requires_grad_(False)
    return model


def data() -> Tensor:
    return torch.randn(N, X_DIM, dtype=torch.double)


def bound(model: LadderVAE, x: Tensor) -> Tensor:
    """The ELBO of each datum: E_q[log p(x, z)] + entropy of q."""
    *below, top = [n.base_dist for n in model.bottom_up(x)]
    nothing = x.new_zeros(top.loc.shape[-1], 0)
    mean, variance = top.loc, top.variance[0]
    z, total = add_noise(mean, nothing, variance), sum(Z_DIMS)
    log_p = -0.5 * (LOG_2PI + mean**2 + variance).sum(-1)
    entropy = 0.5 * (1 + LOG_2PI + variance.log()).sum()
    for n, network in zip(reversed(below), reversed(list(model.conditionals)), strict=True):
        prior_mean, prior_matrix, prior_variance = push(network, z)
        bottom_up = 1 / n.variance[0]
        variance = 1 / (bottom_up + 1 / prior_variance)
        mean = variance * (n.loc * bottom_up + prior_mean / prior_variance)
        matrix = (variance / prior_variance)[:, None] * prior_matrix
        z = add_noise(mean, matrix, variance)
        _, prior_matrix = pad((prior_mean, prior_matrix), z[1].shape[1])
        square = (mean - prior_mean) ** 2 + ((z[1] - prior_matrix) ** 2).sum(-1)
        log_p = log_p - 0.5 * (LOG_2PI + prior_variance.log() + square / prior_variance).sum(-1)
        entropy = entropy + 0.5 * (1 + LOG_2PI + variance.log()).sum()
    mean, matrix, variance = push(model.decoder, z)
    assert matrix.shape == (X_DIM, total)
    square = (x - mean) ** 2 + (matrix**2).sum(-1)
    return log_p - 0.5 * (LOG_2PI + variance.log() + square / variance).sum(-1) + entropy


def log_evidence(model: LadderVAE, x: Tensor) -> Tensor:
    """log p(x) of each datum, for constant scales."""
    networks = [*reversed(list(model.conditionals)), model.decoder]
    dim = networks[0].loc.weight.shape[1]
    mean, covariance = x.new_zeros(dim), torch.eye(dim, dtype=x.dtype)
    for network in networks:
        weight = network.loc.weight
        mean = weight @ mean + network.loc.bias
        covariance = weight @ covariance @ weight.T + torch.diag(network.log_var.bias.exp())
    return MultivariateNormal(mean, covariance).log_prob(x)


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_value_and_gradients_are_those_of_the_known_bound(analytic_kl: bool) -> None:
    model, x, objective = linear(), data(), ELBO(600, analytic_kl)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def flat(loss: Tensor) -> Tensor:
        grads = torch.autograd.grad(loss, parameters)
        return torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in grads)])

    expected = flat(-bound(model, x).sum())
    replicates = torch.stack(
        [flat(objective.differentiable_loss(model.model, model.guide, x)) for _ in range(200)]
    )
    assert_unbiased(replicates, expected, errors=4.0)
    assert (replicates.std(0) / 200**0.5 < 0.05 * (1 + expected.abs())).all()
    assert (bound(model, x) < log_evidence(model, x)).all()


@torch.no_grad()
def set_posterior(model: LadderVAE) -> None:
    """Diagonal p(z_l | z_{l+1}), orthogonal columns of p(x | z_1), and the guide for these.

    Then q(z_l | z_{l+1}, x), proportional to p(x | z_l) p(z_l | z_{l+1}), is the merge of two
    diagonal normals: bottom-up is what x says of z_l, and at the top that times the prior.
    """
    loading = torch.linalg.qr(torch.randn(X_DIM, 2, dtype=torch.double))[0]
    loading = loading * torch.tensor([1.5, -0.7], dtype=torch.double)
    gain = torch.diag(1 / (loading**2).sum(0)) @ loading.T  # x to an estimate of z_1 ...
    offset = -gain @ model.decoder.loc.bias
    variance = 0.4 / (loading**2).sum(0)  # ... and its variance
    model.decoder.loc.weight.copy_(loading)
    model.decoder.log_var.bias.fill_(math.log(0.4))
    for layer, encoder in enumerate(model.encoders):
        if layer == len(model.encoders) - 1:
            shrink = 1 / (1 + variance)
            gain, offset, variance = shrink[:, None] * gain, shrink * offset, shrink * variance
        encoder.loc.weight.copy_(gain)
        encoder.loc.bias.copy_(offset)
        encoder.log_var.bias.copy_(variance.log())
        if layer < len(model.conditionals):
            network, noise = model.conditionals[layer], 0.6
            slope = torch.tensor([0.8, -1.3], dtype=torch.double)
            network.loc.weight.copy_(torch.diag(slope))
            network.log_var.bias.fill_(math.log(noise))
            gain, offset = gain / slope[:, None], (offset - network.loc.bias) / slope
            variance = (variance + noise) / slope**2


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_it_is_the_evidence_in_every_draw_at_the_posterior(n_layers: int, k: int) -> None:
    model, x = linear((2,) * n_layers), data()
    set_posterior(model)
    for _ in range(5):
        value = elbo_per_datum(draw(model.model, model.guide, x, k=k))
        torch.testing.assert_close(value, log_evidence(model, x), rtol=0, atol=1e-10)


def loss_of(model: Any, x: Tensor, analytic_kl: bool) -> Callable[[], Tensor]:
    return lambda: ELBO(3, analytic_kl).differentiable_loss(model.model, model.guide, x)


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_one_layer_is_the_vae(analytic_kl: bool) -> None:
    x = torch.rand(N, X_DIM, dtype=torch.double)
    vae = VAE(X_DIM, 2, (5, 3), "leaky_relu").double()
    model = LadderVAE(X_DIM, (2,), ((5, 3),), batch_norm=False).double()
    state = vae.state_dict()
    model.with_weights({k.replace("encoder.", "encoders.0."): v for k, v in state.items()})
    ours = gradients(loss_of(model, x, analytic_kl), model.parameters())
    assert_same(ours, gradients(loss_of(vae, x, analytic_kl), vae.parameters()))


def test_analytic_kl_has_the_same_expectation_and_less_noise() -> None:
    model, x = LadderVAE(X_DIM, Z_DIMS, ((5, 4), (4,), (3,))), torch.rand(N, X_DIM)
    losses = [
        torch.tensor([ELBO(50, closed).loss(model.model, model.guide, x) for _ in range(50)])
        for closed in (False, True)
    ]
    error = (sum(loss.var() for loss in losses) / 50) ** 0.5
    assert (losses[0].mean() - losses[1].mean()).abs() < 4 * error
    assert losses[1].var() < losses[0].var()


def test_model_and_guide_share_the_top_down_network() -> None:
    model, x = LadderVAE(X_DIM, (3, 2), ((5,), (4,))), torch.rand(N, X_DIM)
    with torch.no_grad():
        model.conditionals[0].loc.bias.fill_(40.0)
        model.conditionals[0].log_var.bias.fill_(-12.0)
    drawn = draw(model.model, model.guide, x)
    torch.testing.assert_close(drawn.guide["z_1"].fn.mean, torch.full((N, 3), 40.0), atol=1, rtol=0)
    guide = poutine.trace(model.guide).get_trace(x)
    assert [name for name in guide.stochastic_nodes if name != "data"] == ["z_2", "z_1"]


def test_the_default_is_the_model_of_the_paper() -> None:
    model = LadderVAE()
    assert {name: tuple(v.shape[1:]) for name, v in model.sample(1).items()} == {
        **{f"z_{layer}": (2 ** (7 - layer),) for layer in range(1, 6)},
        "x": (784,),
    }
    sizes = [
        [tuple(layer.weight.shape) for layer in net.trunk.layers]
        for net in [*model.encoders, *model.conditionals, model.decoder]
    ]
    bottom_up = [
        [(512, 784), (512, 512)],
        [(256, 512), (256, 256)],
        [(128, 256), (128, 128)],
        [(64, 128), (64, 64)],
        [(32, 64), (32, 32)],
    ]
    top_down = [
        [(256, 32), (256, 256)],
        [(128, 16), (128, 128)],
        [(64, 8), (64, 64)],
        [(32, 4), (32, 32)],
    ]
    assert sizes == [*bottom_up, *top_down, [(512, 64), (512, 512)]]
    assert {m.activation for m in model.modules() if hasattr(m, "activation")} == {"leaky_relu"}
    assert isinstance(model.encoders[4].loc, nn.Linear)


def test_the_top_has_the_injected_prior() -> None:
    class FarAway(Network):
        def forward(self) -> dist.Independent:
            return dist.Independent(dist.Normal(torch.full((2,), 50.0), 1.0), 1)

    model = LadderVAE(X_DIM, (3, 2), ((5,), (4,)), prior=FarAway())
    sample = model.sample(7)
    assert {n: tuple(v.shape) for n, v in sample.items()} == {
        "z_2": (7, 2),
        "z_1": (7, 3),
        "x": (7, X_DIM),
    }
    assert (sample["z_2"] > 40).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"z_dims": (), "hidden": ()}, r"z_dims should hold .* at least one layer, was \(\)"),
        ({"z_dims": (3, 0)}, "z_dims should be a whole number of at least 1, was 0"),
        ({"hidden": ((5,),)}, "hidden should be one .* for each of the 2 layers .*had 1"),
        ({"hidden": (5, 4)}, r"hidden should be a sequence of sizes for each.*was \(5, 4\)"),
        ({"activation": "cubic"}, "activation should be one of"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LadderVAE(**{"x_dim": 4, "z_dims": (3, 2), "hidden": ((5,), (4,)), **arguments})


def test_wrong_data_are_named() -> None:
    model = LadderVAE(X_DIM, (3, 2), ((5,), (4,)))
    for wrong, says in (
        ((torch.zeros(5, 3),), r"x should have shape \(n, 4\), had \(5, 3\)"),
        ((torch.full((5, 4), 2.0),), r"x should lie in \[0, 1\]"),
        ((torch.zeros(5, 4), torch.zeros(5)), r"data should be \(x\), had 2 arrays"),
    ):
        with pytest.raises(ValueError, match=says):
            model.check(*wrong)
