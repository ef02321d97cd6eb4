"""DLGM and its rank-one posterior against dense normals, and against a linear model's log p(x)."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import assert_unbiased
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae import ELBO
from ppl_vae.models import (
    DLGM,
    MLP,
    BernoulliNet,
    DiagNormalNet,
    RankOneNormal,
    RankOneNormalNet,
)

DIM, LEADING = 5, (3, 2)
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


def parameters(scale: float = 1.0, leading: tuple[int, ...] = LEADING) -> tuple[Tensor, ...]:
    """loc, d and u, in double precision."""
    pyro.set_rng_seed(3)
    loc, log_d, u = torch.randn(3, *leading, DIM, dtype=torch.double)
    return loc, log_d.exp(), scale * u


def dense(loc: Tensor, d: Tensor, u: Tensor) -> MultivariateNormal:
    precision = torch.diag_embed(d) + u[..., :, None] * u[..., None, :]
    return MultivariateNormal(loc, precision_matrix=precision)


SCALES = pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 1.0, 100.0])


@SCALES
def test_it_is_the_dense_normal(scale: float) -> None:
    q, p = RankOneNormal(*parameters(scale)), dense(*parameters(scale))
    x = q.loc + torch.randn(4, *LEADING, DIM, dtype=torch.double)
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x), **EXACT)
    torch.testing.assert_close(q.entropy(), p.entropy(), **EXACT)
    torch.testing.assert_close(q.variance, p.variance, **EXACT)
    torch.testing.assert_close(q.covariance_matrix, p.covariance_matrix, **EXACT)
    torch.testing.assert_close(q.mean, p.mean, **EXACT)
    torch.testing.assert_close(q.log_det_covariance, p.covariance_matrix.logdet(), **EXACT)


@SCALES
def test_the_factor_of_its_draws_is_a_root_of_the_covariance(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = RankOneNormal(*parameters(scale, (1,))).expand((DIM,))
    columns = torch.eye(DIM, dtype=torch.double)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: columns)
    root = (q.rsample() - q.loc).T  # the images of the unit vectors
    torch.testing.assert_close(root @ root.T, q.covariance_matrix[0], **EXACT)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: torch.zeros(DIM, DIM).double())
    torch.testing.assert_close(q.rsample(), q.loc)


def test_moments_of_draws() -> None:
    q = RankOneNormal(*parameters(2.0))
    pyro.set_rng_seed(0)
    away = q.rsample((20000,)) - q.loc
    assert away.shape == (20000, *LEADING, DIM)
    assert_unbiased(away, torch.zeros_like(q.loc))
    assert_unbiased(away[..., :, None] * away[..., None, :], q.covariance_matrix)


def test_gradients_at_and_near_zero_factor() -> None:
    for scale in (0.0, 1e-30, 1.0):
        values = [v.requires_grad_() for v in parameters(scale)]
        q = RankOneNormal(*values)
        prior = dist.Normal(torch.zeros(DIM).double(), 1.0).to_event(1)
        terms = [q.rsample((2,)).square(), q.log_prob(values[0].detach() + 1), q.entropy()]
        terms += [q.variance, kl_divergence(q, prior)]
        for term in terms:
            found = torch.autograd.grad(term.sum(), values, retain_graph=True, allow_unused=True)
            for grad in found:
                assert grad is None or grad.isfinite().all()


def test_gradients_through_draws_are_those_of_the_moments() -> None:
    """d/du E[x x^T] by reparametrisation is du of C, whatever the root of C."""
    weights = torch.randn(DIM, DIM, dtype=torch.double)
    loc, d, u = (v.requires_grad_() for v in parameters(1.0, ()))
    q = RankOneNormal(torch.zeros_like(loc), d, u)
    # Without sampling: sum over +- sqrt(DIM) e_i averages to the second moment exactly.
    points = torch.cat([torch.eye(DIM), -torch.eye(DIM)]).double() * DIM**0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: points)
        x = q.rsample((2 * DIM,))
    by_draws = torch.autograd.grad(((x @ weights) * x).sum() / len(x), (d, u))
    exact = torch.autograd.grad((q.covariance_matrix * weights).sum(), (d, u))
    torch.testing.assert_close(by_draws, exact, **EXACT)


def test_without_factor_it_is_the_diagonal_normal() -> None:
    loc, d, _ = parameters()
    q, p = RankOneNormal(loc, d, torch.zeros_like(d)), dist.Normal(loc, d**-0.5).to_event(1)
    x = torch.randn(4, *LEADING, DIM, dtype=torch.double)
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x), **EXACT)
    draws = []
    for fn in (q, p):
        pyro.set_rng_seed(0)
        draws.append(fn.rsample((7,)))
    torch.testing.assert_close(draws[0], (draws[1] - loc) + loc, **EXACT)


@SCALES
def test_kl_is_that_of_dense_normals(scale: float) -> None:
    q = RankOneNormal(*parameters(scale))
    loc, s = torch.randn(DIM).double(), torch.rand(DIM).double() + 0.5
    closed = kl_divergence(q, dist.Normal(loc, s).to_event(1))
    theirs = kl_divergence(dense(*parameters(scale)), MultivariateNormal(loc, torch.diag(s**2)))
    torch.testing.assert_close(closed, theirs, **EXACT)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Laplace(loc, s).to_event(1))
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Normal(torch.zeros(2, DIM).double(), s).to_event(2))


def test_single_precision_where_the_factor_dominates() -> None:
    u = torch.tensor([[1e4], [3e5]])
    q = RankOneNormal(torch.zeros(1), torch.ones(1), u)
    torch.testing.assert_close(q.variance, 1 / (1 + u**2), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(q.log_det_covariance, -(1 + u[:, 0] ** 2).log())


def test_expand_and_broadcast() -> None:
    loc, d, u = parameters(1.0, ())
    q = RankOneNormal(loc.expand(2, DIM), d, u)
    assert (q.batch_shape, q.event_shape) == ((2,), (DIM,))
    wide = q.expand((3, 2))
    assert isinstance(wide, RankOneNormal)
    assert wide.rsample((4,)).shape == (4, 3, 2, DIM)
    x = torch.randn(3, 2, DIM, dtype=torch.double)
    torch.testing.assert_close(wide.log_prob(x), q.log_prob(x))
    with pytest.raises(ValueError, match="precision_diag"):
        RankOneNormal(loc, -d, u, validate_args=True)
    with pytest.raises(ValueError, match=r"precision_factor should have shape \(\.\.\., 5\), had"):
        RankOneNormal(loc, d, u[:3])
    with pytest.raises(ValueError, match="loc should have shape"):
        RankOneNormal(loc[0], d, u)


def test_the_network_is_the_written_out_formula() -> None:
    net = RankOneNormalNet(4, DIM, (6,), "tanh").double()
    x = torch.randn(2, 3, 4, dtype=torch.double)
    h = net.trunk(x)
    q = net(x)
    p = dense(net.loc(h), net.log_precision(h).exp(), net.u(h))
    torch.testing.assert_close(q.covariance_matrix, p.covariance_matrix, **EXACT)
    torch.testing.assert_close(q.mean, p.mean, **EXACT)


# The model.

N, X_DIM = 6, 8


def linear(z_dims: tuple[int, ...], covariance: str = "rank_one") -> DLGM:
    """x = b + W h_1 + noise with linear T_l: x is normal, and so is xi given x."""
    hidden = tuple(() for _ in z_dims)
    decoder = DiagNormalNet(z_dims[0], X_DIM, ())
    model = DLGM(X_DIM, z_dims, hidden, covariance, decoder=decoder).double()
    with torch.no_grad():
        decoder.log_var.weight.zero_()
        decoder.log_var.bias.copy_(torch.linspace(-1.0, 0.5, X_DIM))
    return model


def as_linear_map(model: DLGM) -> tuple[Tensor, Tensor, Tensor]:
    """A, b and the noise's variance: x = A [xi_1, ..., xi_L] + b + noise, equations 2 to 4."""
    loc = model.decoder.loc
    blocks, path, bias = [], loc.weight, loc.bias
    for i, loading in enumerate(model.loadings):
        blocks.append(path @ loading)
        if i < len(model.transforms):
            bias = bias + path @ model.transforms[i].out.bias
            path = path @ model.transforms[i].out.weight
    return torch.cat(blocks, 1), bias, model.decoder.log_var.bias.exp()


def log_evidence(model: DLGM, x: Tensor) -> Tensor:
    a, b, noise = as_linear_map(model)
    return MultivariateNormal(b, a @ a.T + torch.diag(noise)).log_prob(x)


def posterior(model: DLGM, x: Tensor) -> MultivariateNormal:
    """p(xi_1, ..., xi_L | x)."""
    a, b, noise = as_linear_map(model)
    precision = torch.eye(a.shape[1]).double() + a.T @ torch.diag(1 / noise) @ a
    mean = torch.linalg.solve(precision, ((x - b) / noise @ a).T).T
    return MultivariateNormal(mean, precision_matrix=precision)


def bounds(model: DLGM, x: Tensor, draws: int, objective: Any = None) -> Tensor:
    """The bound summed over the data, once per draw."""
    objective = objective or ELBO()
    values = [-objective.differentiable_loss(model.model, model.guide, x) for _ in range(draws)]
    return torch.stack(values).detach()


@torch.no_grad()
@pytest.mark.parametrize("covariance", ["diagonal", "rank_one"])
@pytest.mark.parametrize("z_dims", [(3,), (3, 2), (2, 3, 1)])
def test_the_bound_falls_short_of_log_p_by_the_kl_to_the_posterior(
    z_dims: tuple[int, ...], covariance: str
) -> None:
    pyro.set_rng_seed(1)
    model, x = linear(z_dims, covariance), torch.randn(N, X_DIM).double()
    parts = [encoder(x) for encoder in model.encoders]
    q = MultivariateNormal(
        torch.cat([part.mean for part in parts], -1),
        torch.stack([torch.block_diag(*row) for row in zip(*map(covariances, parts), strict=True)]),
    )
    gap = kl_divergence(q, posterior(model, x))
    expected = (log_evidence(model, x) - gap).sum()
    assert (gap > 1e-3).all()
    for analytic_kl in (False, True):
        assert_unbiased(bounds(model, x, 500, ELBO(analytic_kl=analytic_kl)), expected)


def covariances(q: Any) -> Tensor:
    if isinstance(q, RankOneNormal):
        return q.covariance_matrix
    return torch.diag_embed(q.variance)


@torch.no_grad()
def exact_pair() -> DLGM:
    """Two layers whose posterior factorises into normals of rank-one precision, put into q.

    xi_1 acts on the first half of x alone and xi_2 on the second, each by a map [diag(r); c^T], so
    that the precision is I + diag(r^2 / s_1, ...) + c c^T / s_4, s being the noise's variance.
    """
    model = linear((6, 3))
    half = torch.cat([torch.diag(torch.tensor([0.5, 1.0, 1.5])), torch.randn(1, 3)]).double()
    zero = torch.zeros(3, 3).double()
    model.decoder.loc.weight.copy_(torch.block_diag(half, half))
    keep = torch.block_diag(torch.eye(3).double(), zero)
    model.loadings[0].copy_(keep)
    model.loadings[1].copy_(torch.eye(3).double() * 2)
    model.transforms[0].out.weight.copy_(torch.cat([zero, torch.eye(3).double()]))
    a, b, noise = as_linear_map(model)
    start = 0
    for encoder, dim, last in zip(model.encoders, (6, 3), (3, 7), strict=True):
        block = a[:, start : start + dim]
        u = block[last] / noise[last] ** 0.5
        precision = torch.eye(dim).double() + block.T @ torch.diag(1 / noise) @ block
        d = (precision - torch.outer(u, u)).diag()
        torch.testing.assert_close(torch.diag(d) + torch.outer(u, u), precision)
        gain = torch.linalg.solve(precision, block.T / noise)
        encoder.loc.weight.copy_(gain)
        encoder.loc.bias.copy_(-gain @ b)
        encoder.log_precision.weight.zero_()
        encoder.log_precision.bias.copy_(d.log())
        encoder.u.weight.zero_()
        encoder.u.bias.copy_(u)
        start += dim
    return model


def test_with_the_posterior_as_guide_every_draw_of_the_bound_is_log_p() -> None:
    pyro.set_rng_seed(2)
    model, x = exact_pair(), torch.randn(N, X_DIM).double()
    expected = log_evidence(model, x).sum().detach()
    values = bounds(model, x, 5)
    torch.testing.assert_close(values, expected.expand(5), **EXACT)
    closed = bounds(model, x, 400, ELBO(analytic_kl=True))
    assert closed.std() > 1e-3
    assert_unbiased(closed, expected)
    with torch.no_grad():
        model.encoders[1].u.bias.mul_(-1)  # u and -u are the same distribution
        torch.testing.assert_close(bounds(model, x, 5), expected.expand(5), **EXACT)
        model.encoders[1].u.bias.mul_(0.9)
    assert (bounds(model, x, 200).mean() < expected - 1e-3).all()


def test_sites_networks_and_defaults() -> None:
    model = DLGM()
    assert [tuple(g.shape) for g in model.loadings] == [(200, 200)]
    assert isinstance(model.decoder, BernoulliNet)
    assert isinstance(model.encoders[0], RankOneNormalNet)
    assert model.decoder.trunk.activation == model.encoders[0].trunk.activation == "relu"
    deep = DLGM(6, (4, 3, 2), ((9, 8), (7,), ()), "diagonal")
    draws = deep.sample(11)
    shapes = {name: tuple(value.shape) for name, value in draws.items()}
    assert shapes == {"xi_3": (11, 2), "xi_2": (11, 3), "xi_1": (11, 4), "x": (11, 6)}
    trunks = [encoder.trunk for encoder in deep.encoders]
    assert [sizes(trunk) for trunk in trunks] == [[6, 9, 8], [6, 9, 8, 7], [6, 9, 8, 7]]
    assert [sizes(t.trunk) for t in deep.transforms] == [[3, 7], []]
    assert sizes(deep.decoder.trunk) == [4, 8, 9]
    assert all(isinstance(encoder, DiagNormalNet) for encoder in deep.encoders)


def sizes(trunk: MLP) -> list[int]:
    widths = [(layer.in_features, layer.out_features) for layer in trunk.layers]
    assert all(a[1] == b[0] for a, b in pairwise(widths))
    return [widths[0][0], *(out for _, out in widths)] if widths else []


def test_injected_networks_are_used_and_saved(tmp_path: Any) -> None:
    parts = {
        "transforms": [MLP(2, (3,), "tanh")],
        "encoders": [DiagNormalNet(6, 3, ()), RankOneNormalNet(6, 2, (4,))],
        "decoder": DiagNormalNet(3, 6, ()),
    }
    model = DLGM(6, (3, 2), ((), ()), **parts)
    assert list(model.transforms) == parts["transforms"]
    assert list(model.encoders) == parts["encoders"]
    model.save(tmp_path / "model")
    loaded = DLGM.load(tmp_path / "model")
    x = torch.randn(5, 6)
    assert loaded.describe() == model.describe()
    assert bounds(loaded, x, 1).shape == (1,)
    pyro.set_rng_seed(0)
    ours = bounds(model, x, 1)
    pyro.set_rng_seed(0)
    assert torch.equal(bounds(loaded, x, 1), ours)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-layer": ({"z_dims": (), "hidden": ()}, r"z_dims should .* at least one layer, was \(\)"),
    "lengths": ({"z_dims": (3, 2)}, "hidden should be one .* each of the 2 layers .*, had 1"),
    "flat": ({"hidden": (200,)}, r"hidden should be a sequence of sizes .*, was \(200,\)"),
    "size": ({"z_dims": (0,)}, "z_dims should be a whole number of at least 1, was 0"),
    "width": ({"hidden": ((0,),)}, "hidden should be a whole number of at least 1, was 0"),
    "number": ({"z_dims": 3}, "z_dims should be a sequence .*, was 3"),
    "covariance": ({"covariance": "full"}, r"covariance should be one of .*, was 'full'"),
    "encoders": ({"encoders": []}, "encoders should be 1 networks, one per layer, had 0"),
    "transforms": ({"transforms": [nn.Identity()]}, "transforms should be 0 networks, .*, had 1"),
    "activation": ({"activation": "sine"}, "activation should be one of .*, was 'sine'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    arguments, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        DLGM(**arguments)
    ports = pytest.importorskip("ppl_vae.numpyro.models")
    key = pytest.importorskip("jax").random.key(0)
    with pytest.raises(ValueError, match=says):
        ports.DLGM(**arguments, key=key)


def test_bad_data() -> None:
    model = DLGM(6, (2,), ((3,),))
    for data, says in (
        ((np.ones((4, 5), np.float32),), r"x should have shape \(n, 6\), had \(4, 5\)"),
        ((2 * np.ones((4, 6), np.float32),), r"x should lie in \[0, 1\]"),
        ((np.ones((4, 6), np.float32), np.ones(4)), r"data should be \(x\), had 2 arrays"),
    ):
        with pytest.raises(ValueError, match=says):
            model.check(*data)


# The port's distribution; the model is compared by tests/port/test_parity.py.


@pytest.fixture
def port() -> Any:
    """The port's RankOneNormal and what it is tested with, in double precision."""
    pytest.importorskip("ppl_vae.numpyro", reason="the port is optional")
    import jax
    import numpyro.distributions as port_dist

    from ppl_vae.numpyro.models import RankOneNormal as Port
    from ppl_vae.parity import float64

    class Room:
        jax_, jnp, dist, cls = jax, jax.numpy, port_dist, Port

        @staticmethod
        def q(scale: float, leading: tuple[int, ...] = LEADING) -> Any:
            return Port(*(jax.numpy.asarray(v.numpy()) for v in parameters(scale, leading)))

    with float64():
        yield Room


@SCALES
def test_the_port_is_the_dense_normal(port: Any, scale: float) -> None:
    q, p = port.q(scale), dense(*parameters(scale))
    x = p.mean + torch.randn(4, *LEADING, DIM, dtype=torch.double)
    close: Callable[..., None] = lambda a, b: np.testing.assert_allclose(a, b, **EXACT)  # noqa: E731
    close(q.log_prob(x.numpy()), p.log_prob(x))
    close(q.entropy(), p.entropy())
    close(q.variance, p.variance)
    close(q.covariance_matrix, p.covariance_matrix)
    close(q.mean, p.mean)
    prior = port.dist.Normal(port.jnp.ones(DIM), 1.5).to_event(1)
    dense_prior = MultivariateNormal(torch.ones(DIM).double(), 1.5**2 * torch.eye(DIM).double())
    close(port.dist.kl_divergence(q, prior), kl_divergence(p, dense_prior))
    wide = port.dist.kl_divergence(q, prior.expand((4, *LEADING)))
    close(wide, np.broadcast_to(kl_divergence(p, dense_prior), (4, *LEADING)))
    with pytest.raises(NotImplementedError):
        port.dist.kl_divergence(q, port.dist.Laplace(port.jnp.ones(DIM), 1.5).to_event(1))


@SCALES
def test_the_factor_of_the_ports_draws_is_a_root_of_the_covariance(port: Any, scale: float) -> None:
    q = port.q(scale, ())
    unit = port.jnp.eye(DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(port.jax_.random, "normal", lambda *_: unit)
        root = (q.sample(port.jax_.random.key(0), (DIM,)) - q.loc).T
    np.testing.assert_allclose(root @ root.T, q.covariance_matrix, **EXACT)


def test_the_ports_draws(port: Any) -> None:
    q = port.q(2.0)
    away = port.jax_.jit(lambda q, k: q.sample(k, (20000,)) - q.loc)(q, port.jax_.random.key(0))
    away = torch.tensor(np.asarray(away))
    assert_unbiased(away, torch.zeros(*LEADING, DIM).double())
    covariance = torch.tensor(np.asarray(q.covariance_matrix))
    assert_unbiased(away[..., :, None] * away[..., None, :], covariance)
    assert q.has_rsample
    assert q.expand((4, *LEADING)).sample(port.jax_.random.key(1)).shape == (4, *LEADING, DIM)
    with pytest.raises(ValueError, match=r"precision_factor should have shape \(\.\.\., 5\), had"):
        port.cls(q.loc, q.precision_diag, q.precision_factor[..., :3])


def test_the_ports_gradients_at_zero_factor(port: Any) -> None:
    jax, jnp = port.jax_, port.jnp
    prior = port.dist.Normal(jnp.zeros(DIM), 1.0).to_event(1)

    def total(values: Any) -> Any:
        q = port.cls(*values)
        x = q.sample(jax.random.key(0), (2,))
        return (x**2).sum() + q.log_prob(x + 1).sum() + port.dist.kl_divergence(q, prior).sum()

    grads = jax.jit(jax.grad(total))([jnp.asarray(v.numpy()) for v in parameters(0.0)])
    assert all(np.isfinite(grad).all() for grad in grads)
    assert all(np.abs(grad).sum() > 0 for grad in grads[:2])


@pytest.mark.slow
def test_the_ports_closed_form_is_used_by_its_bound(port: Any) -> None:
    """In a plate, where numpyro wraps the distribution: the posterior as guide gives log p(x)."""
    from ppl_vae.numpyro.inference import ELBO as PortELBO
    from ppl_vae.numpyro.models import DLGM as PortDLGM
    from ppl_vae.numpyro.models import DiagNormalNet as PortNet

    pyro.set_rng_seed(2)
    model, x = exact_pair(), torch.randn(N, X_DIM).double()
    key = port.jax_.random.key
    decoder = PortNet(6, X_DIM, (), key=key(0))
    twin = PortDLGM(X_DIM, (6, 3), ((), ()), decoder=decoder, key=key(0))
    twin = port.jax_.tree.map(lambda v: v.astype(float), twin).with_weights(model.state_dict())
    expected = log_evidence(model, x).sum().item()
    data = port.jnp.asarray(x.numpy())

    def bound(seed: Any, analytic_kl: bool) -> Any:
        objective = PortELBO(k=400 if analytic_kl else 1, analytic_kl=analytic_kl)
        return -objective.differentiable_loss(twin.model, twin.guide, data, key=seed)

    assert math.isclose(float(bound(key(1), False)), expected, rel_tol=1e-10)
    closed = torch.tensor([float(bound(key(seed), True)) for seed in range(8)])
    assert closed.std() > 1e-4
    assert_unbiased(closed, torch.tensor(expected), errors=5.0)
