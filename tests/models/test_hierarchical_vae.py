"""HierarchicalVAE against closed forms of linear Gaussian layers, and against the VAE."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hierarchical_vae_support import LOG_2PI, add_noise, pad, push
from linear_gaussian import JointLinear
from pyro import poutine
from support import assert_same, assert_unbiased, gradients
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ppl_vae import ELBO
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.models import VAE, DiagNormalNet, HierarchicalVAE, Network

N, X_DIM, Z_DIMS = 4, 4, (3, 2, 2)


def linear(skip: bool) -> HierarchicalVAE:
    """Every factor is linear with a constant scale: p and q are jointly normal."""
    if skip:
        model = HierarchicalVAE(X_DIM, Z_DIMS, ((4,),) * 3, skip=True)
        model.decoder = JointLinear(Z_DIMS, X_DIM)
        model.conditionals = nn.ModuleList(
            [JointLinear(Z_DIMS[1:], Z_DIMS[0]), JointLinear(Z_DIMS[2:], Z_DIMS[1])]
        )
        model.encoders = nn.ModuleList(
            JointLinear((a,), b) for a, b in zip((X_DIM, 3, 2), Z_DIMS, strict=True)
        )
        return model.double()
    decoder = DiagNormalNet(Z_DIMS[0], X_DIM, ())
    model = HierarchicalVAE(X_DIM, Z_DIMS, ((), (), ()), decoder=decoder).double()
    for name, parameter in model.named_parameters():
        if name.endswith("log_var.weight"):
            parameter.detach().zero_()
            parameter.requires_grad_(False)
    return model


def data() -> Tensor:
    return torch.randn(N, X_DIM, dtype=torch.double)


def bound(model: HierarchicalVAE, x: Tensor) -> Tensor:
    """The ELBO of each datum: E_q[log p(x, z)] + entropy of q."""
    total = sum(Z_DIMS)
    below, z, entropy = (x, x.new_zeros(X_DIM, 0)), [], x.new_zeros(())
    for encoder in model.encoders:
        mean, matrix, variance = push(encoder, below)
        below = add_noise(mean, matrix, variance)
        z.append(pad(below, total))
        entropy = entropy + 0.5 * (1 + LOG_2PI + variance.log()).sum()
    mean, matrix = z[-1]
    log_p = -0.5 * (LOG_2PI + mean**2 + (matrix**2).sum(-1)).sum(-1)
    values = [(x, x.new_zeros(X_DIM, total)), *z]
    for i, network in enumerate([model.decoder, *model.conditionals]):
        mean, matrix, variance = push(network, *(z[i:] if model.skip else z[i : i + 1]))
        square = (values[i][0] - mean) ** 2 + ((values[i][1] - matrix) ** 2).sum(-1)
        log_p = log_p - 0.5 * (LOG_2PI + variance.log() + square / variance).sum(-1)
    return log_p + entropy


def log_evidence(model: HierarchicalVAE, x: Tensor) -> Tensor:
    """log p(x) of each datum."""
    above = [(x.new_zeros(1, Z_DIMS[-1]), torch.eye(Z_DIMS[-1], dtype=x.dtype))]
    for network in [*reversed(list(model.conditionals)), model.decoder]:
        inputs = above if model.skip else above[:1]
        new = add_noise(*push(network, *inputs))
        above = [new, *(pad(part, new[1].shape[1]) for part in above)]
    mean, matrix = above[0]
    return MultivariateNormal(mean[0], matrix @ matrix.T).log_prob(x)


@pytest.mark.parametrize("skip", [False, True], ids=["chain", "skip"])
def test_value_and_gradients_are_those_of_the_known_bound(skip: bool) -> None:
    model, x, objective = linear(skip), data(), ELBO(2000)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def flat(loss: Tensor) -> Tensor:
        grads = torch.autograd.grad(loss, parameters)
        return torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in grads)])

    expected = flat(-bound(model, x).sum())
    replicates = torch.stack(
        [flat(objective.differentiable_loss(model.model, model.guide, x)) for _ in range(60)]
    )
    assert_unbiased(replicates, expected, errors=4.0)
    assert (replicates.std(0) / 60**0.5 < 0.05 * (1 + expected.abs())).all()
    assert (bound(model, x) < log_evidence(model, x)).all()


@pytest.mark.parametrize("k", [1, 4])
def test_it_is_the_evidence_in_every_draw_at_the_posterior(k: int) -> None:
    # Diagonal p(z_l | z_{l+1}) and orthogonal loadings: p(z_1 | x) prod p(z_l | z_{l-1}) is
    # diagonal, and is the posterior, since z_l depends on what lies below z_{l-1} only through it.
    decoder = DiagNormalNet(2, X_DIM, ())
    model = HierarchicalVAE(X_DIM, (2, 2, 2), ((), (), ()), decoder=decoder).double()
    marginal = torch.ones(2, dtype=torch.double)  # variances of z_l
    offset = torch.zeros(2, dtype=torch.double)  # means
    networks = [model.decoder, *model.conditionals]
    with torch.no_grad():
        for layer in (2, 1, 0):
            network, encoder = networks[layer], model.encoders[layer]
            dim = X_DIM if layer == 0 else 2
            weight = torch.linalg.qr(torch.randn(dim, 2, dtype=torch.double))[0]
            weight = weight if layer == 0 else torch.eye(2, dtype=torch.double)
            weight = weight * torch.tensor([1.5, -0.7])
            noise = 0.4 + 0.1 * layer
            network.loc.weight.copy_(weight)
            network.log_var.weight.zero_()
            network.log_var.bias.fill_(math.log(noise))
            bias = network.loc.bias
            # p(z above | below) of above ~ N(offset, marginal), below ~ N(W above + bias, noise)
            variance = 1 / (1 / marginal + (weight**2).sum(0) / noise)
            gain = variance[:, None] * weight.T / noise
            encoder.loc.weight.copy_(gain)
            encoder.loc.bias.copy_(variance * offset / marginal - gain @ bias)
            encoder.log_var.weight.zero_()
            encoder.log_var.bias.copy_(variance.log())
            if layer:
                offset = weight @ offset + bias
                marginal = weight.diagonal() ** 2 * marginal + noise
    x = data()
    expected = _evidence_of_a_chain(model, x)
    for _ in range(5):
        value = elbo_per_datum(draw(model.model, model.guide, x, k=k))
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)


def _evidence_of_a_chain(model: HierarchicalVAE, x: Tensor) -> Tensor:
    mean, covariance = x.new_zeros(2), torch.eye(2, dtype=x.dtype)
    for network in [*reversed(list(model.conditionals)), model.decoder]:
        weight = network.loc.weight
        mean = weight @ mean + network.loc.bias
        covariance = weight @ covariance @ weight.T + torch.diag(network.log_var.bias.exp())
    return MultivariateNormal(mean, covariance).log_prob(x)


def loss_of(model: Any, x: Tensor) -> Callable[[], Tensor]:
    return lambda: ELBO(3).differentiable_loss(model.model, model.guide, x)


@pytest.mark.parametrize("skip", [False, True])
def test_one_layer_is_the_vae(skip: bool) -> None:
    x = torch.rand(N, X_DIM, dtype=torch.double)
    vae = VAE(X_DIM, 2, (5, 3), "tanh").double()
    model = HierarchicalVAE(X_DIM, (2,), ((5, 3),), skip=skip).double()
    state = vae.state_dict()
    model.with_weights({k.replace("encoder.", "encoders.0."): v for k, v in state.items()})
    ours = gradients(loss_of(model, x), model.parameters())
    assert_same(ours, gradients(loss_of(vae, x), vae.parameters()))


def test_skip_connections_of_weight_zero_are_none() -> None:
    x = torch.rand(N, X_DIM, dtype=torch.double)
    arguments = (X_DIM, Z_DIMS, ((5, 4), (4,), (3,)))
    plain, skip = HierarchicalVAE(*arguments).double(), HierarchicalVAE(*arguments, skip=True)
    skip = skip.double()
    own = plain.state_dict()
    wider = {name: v for name, v in skip.state_dict().items() if v.shape != own[name].shape}
    assert {name: tuple(v.shape) for name, v in wider.items()} == {
        "conditionals.0.trunk.layers.0.weight": (4, 2 + 2),
        "decoder.trunk.layers.0.weight": (4, 3 + 2 + 2),
    }
    zeros = {n: torch.zeros(len(v), v.shape[1] - own[n].shape[1]) for n, v in wider.items()}
    skip.with_weights({n: torch.cat([v, zeros[n]], 1) if n in zeros else v for n, v in own.items()})
    ours = gradients(loss_of(skip, x), skip.parameters())
    # Of the wider weights the first columns are those of the plain model.
    names = ["", *(name for name, _ in skip.named_parameters())]
    ours = [g[:, : own[n].shape[1]] if n in wider else g for n, g in zip(names, ours, strict=True)]
    assert_same(ours, gradients(loss_of(plain, x), plain.parameters()))


def test_the_default_is_the_two_layer_model_of_burda() -> None:
    model = HierarchicalVAE()
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight")]
    encoders = [(200, 784), (200, 200), (100, 200), (100, 200)]
    encoders += [(100, 100), (100, 100), (50, 100), (50, 100)]
    conditionals = [(100, 50), (100, 100), (100, 100), (100, 100)]
    assert shapes == [*encoders, *conditionals, (200, 100), (200, 200), (784, 200)]
    model = HierarchicalVAE(6, (3, 2), ((9, 8), (7, 5)))
    sizes = [p.shape[1] for n, p in model.named_parameters() if n.endswith("loc.weight")]
    assert sizes == [8, 5, 7]
    assert model.decoder.logits.weight.shape == (6, 9)
    assert {m.activation for m in model.modules() if hasattr(m, "activation")} == {"tanh"}


def test_the_top_has_the_injected_prior_and_every_layer_its_size() -> None:
    class Far(Network):
        def forward(self) -> dist.Independent:
            return dist.Independent(dist.Normal(torch.full((2,), 50.0), 1.0), 1)

    model = HierarchicalVAE(X_DIM, (3, 2), ((5,), (4,)), prior=Far())
    sample = model.sample(7)
    assert {name: tuple(v.shape) for name, v in sample.items()} == {
        "z_2": (7, 2),
        "z_1": (7, 3),
        "x": (7, X_DIM),
    }
    assert (sample["z_2"] > 40).all()
    trace = poutine.trace(model.guide).get_trace(torch.rand(7, X_DIM))
    assert [name for name in trace.stochastic_nodes if name != "data"] == ["z_1", "z_2"]
    pyro.set_rng_seed(0)
    assert model.reconstruct(torch.rand(7, X_DIM)).shape == (7, X_DIM)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"z_dims": (), "hidden": ()}, r"z_dims should hold .* at least one layer, was \(\)"),
        ({"z_dims": 3}, "z_dims should be a sequence .*was 3"),
        ({"z_dims": (3, 0)}, "z_dims should be a whole number of at least 1, was 0"),
        ({"hidden": ((5,),)}, "hidden should be one .* for each of the 2 layers .*had 1"),
        ({"hidden": ((5,),) * 3}, "hidden should be one .* for each of the 2 layers .*had 3"),
        ({"hidden": (5, 4)}, r"hidden should be a sequence of sizes for each.*was \(5, 4\)"),
        ({"hidden": ((5,), (0,))}, "hidden should be a whole number of at least 1, was 0"),
        ({"hidden": ((), ()), "skip": True}, "hidden should name a layer to join 2 inputs"),
        ({"activation": "cubic"}, "activation should be one of"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HierarchicalVAE(**{"x_dim": 4, "z_dims": (3, 2), "hidden": ((5,), (4,)), **arguments})


def test_wrong_data_are_named() -> None:
    model = HierarchicalVAE(X_DIM, (3, 2), ((5,), (4,)))
    for data, says in (
        ((torch.zeros(5, 3),), r"x should have shape \(n, 4\), had \(5, 3\)"),
        ((torch.full((5, 4), 2.0),), r"x should lie in \[0, 1\]"),
        ((torch.zeros(5, 4), torch.zeros(5)), r"data should be \(x\), had 2 arrays"),
    ):
        with pytest.raises(ValueError, match=says):
            model.check(*data)
