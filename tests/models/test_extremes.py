"""Objectives at the ends of what is legal: values and gradients are finite, and right."""

import math
from typing import Any

import linear_gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from every_objective import LOSSES, every_loss
from extremes import (
    BOUNDS,
    ENDS,
    PAIRS,
    arrays,
    examples,
    extremes,
    log_weights,
    pairs_of,
    signals,
    tolerance,
)
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import ppl_vae.inference
import ppl_vae.models
from ppl_vae.inference import STL, VIMCO, Objective, Renyi, log_likelihood
from ppl_vae.inference.objectives.parts.kl import divergence
from ppl_vae.models import RankOneNormalNet
from ppl_vae.models.distributions.bernoulli import Bernoullis
from ppl_vae.models.distributions.normal import LogVarNormal
from ppl_vae.models.ladder_vae import merge
from ppl_vae.shared.evaluation.estimates import Estimate


def assert_finite(objective: Objective, pair: str, drawn: Any, name: str) -> None:
    """Loss, state, and the gradients of the pair and the objective's networks are finite."""
    model = PAIRS[pair].model.make(ppl_vae.models)
    shapes = {parameter: tuple(p.shape) for parameter, p in model.named_parameters()}
    weights, data = drawn.draw(extremes(shapes, real=PAIRS[pair].real, name=name))
    trained = dict(model.named_parameters())
    with torch.no_grad():
        for parameter, p in trained.items():
            p.copy_(torch.tensor(weights[parameter]))
    for key, network in objective.networks().items():
        trained |= {f"{key}.{n}": p for n, p in network.float().named_parameters()}
    pyro.set_rng_seed(0)
    inputs = [torch.tensor(part) for part in data]
    loss, state = objective.loss_and_state(model.model, model.guide, *inputs)
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = {p: grad for p, grad in zip(trained, grads, strict=True) if grad is not None}
    assert found
    bad = [p for p, value in {"loss": loss, **state, **found}.items() if not all_finite(value)]
    assert not bad, (pair, weights, data)


def all_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


@every_loss
@examples(6)
@given(st.data())
def test_loss_and_gradients_are_finite(name: str, drawn: st.DataObject) -> None:
    for pair in pairs_of(name):
        assert_finite(LOSSES[name].make(), pair, drawn, name)


@pytest.mark.parametrize(("name", "cls", "arguments"), ENDS)
@examples(3)
@given(st.data())
def test_arguments_at_their_ends(
    name: str, cls: str, arguments: dict[str, Any], drawn: st.DataObject
) -> None:
    for pair in pairs_of(name):
        if not PAIRS[pair].real:
            assert_finite(getattr(ppl_vae.inference, cls)(**arguments), pair, drawn, name)


class Weighed:
    """A pair of which log p(x, z) - log q(z | x) is this table, (K, N)."""

    def __init__(self, log_w: Tensor) -> None:
        self.log_w = log_w

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            log_w = self.log_w if len(self.log_w) > 1 else self.log_w[0]
            pyro.sample("x", dist.Delta(x.expand_as(log_w), log_density=log_w), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def value_and_gradient(objective: Objective, log_w: np.ndarray) -> tuple[float, Tensor | None]:
    table = torch.tensor(log_w, requires_grad=True)
    pair = Weighed(table)
    loss = objective.differentiable_loss(pair.model, pair.guide, torch.zeros(log_w.shape[1]))
    if not loss.requires_grad:  # of the guide's parameters alone
        return loss.item(), None
    (grad,) = torch.autograd.grad(loss, [table], allow_unused=True)
    return loss.item(), grad


@pytest.mark.parametrize("name", BOUNDS)
@examples(12)
@given(log_weights(at_least=2))
def test_bounds_of_any_log_weights_are_those_of_double_precision(
    name: str, log_w: np.ndarray
) -> None:
    bound, log_w = BOUNDS[name], log_w[: len(log_w) // 2 * 2]
    objective = getattr(ppl_vae.inference, bound.cls)(*bound.arguments(len(log_w)))
    loss, grad = value_and_gradient(objective, log_w)
    exact = log_w.astype(float)
    assert loss == pytest.approx(
        bound.sign * bound.value(exact).sum(), rel=3e-6, abs=tolerance(log_w)
    )
    assert grad is None or all_finite(grad)
    if bound.gradient is not None and abs(loss) < 1e5:
        # A log weight, rounded, times the power of it is the error of a share's logarithm.
        np.testing.assert_allclose(grad, -bound.gradient(exact), atol=tolerance(log_w))


SHARES = ("IWAE", "PIWAE", "DReG", "VIMCO", "RWS", "Renyi-0.5")


@pytest.mark.parametrize("name", SHARES)
@examples(8)
@example(6, -9341.7578125)  # logsumexp of the five others is rounded to a thousandth
@given(st.integers(1, 500).map(lambda half: 2 * half), st.floats(-1e4, 1e4, width=32))
def test_where_one_particle_has_all_weight(name: str, k: int, most: float) -> None:
    log_w = np.full((k, 1), most - 1e4, np.float32)
    log_w[k // 3] = most
    bound = BOUNDS[name]
    objective = getattr(ppl_vae.inference, bound.cls)(*bound.arguments(k))
    loss, grad = value_and_gradient(objective, log_w)
    power = 0.5 if name.startswith("Renyi") else 1.0
    assert loss == pytest.approx(-(most - math.log(k) / power), rel=1e-6, abs=1e-5)
    one = -torch.nn.functional.one_hot(torch.tensor([k // 3]), k).T
    np.testing.assert_allclose(grad, one, atol=1e-5)


def test_the_bound_of_renyi_keeps_its_digits_where_one_of_many_has_all_weight() -> None:
    for k in range(900, 1000, 7):
        log_w = np.full((k, 1), -100, np.float32)
        log_w[0] = 0
        loss, _ = value_and_gradient(Renyi(0.0, k), log_w)
        assert loss == pytest.approx(math.log(k), rel=1e-6)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
@examples(20)
@given(log_weights(at_least=2, at_most=60))
def test_signals_of_vimco_are_those_of_double_precision(mean: Any, log_w: np.ndarray) -> None:
    objective, numbers = VIMCO(len(log_w), mean), torch.tensor(log_w)
    found = objective.signal(objective.bound(numbers), numbers)
    exact = signals(log_w.astype(float), mean)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=10 * tolerance(log_w))


ONE = (1,)


@examples(40)
@given(arrays(ONE, -1e4, 1e4), st.sampled_from((0.0, 0.25, 1.0)))
def test_pixels_of_large_logits(logit: np.ndarray, x: float) -> None:
    logits = torch.tensor(logit, requires_grad=True)
    log_p = Bernoullis(logits).log_prob(torch.tensor([x]))
    exact = x * -np.logaddexp(0, -float(logit[0])) - (1 - x) * np.logaddexp(0, float(logit[0]))
    assert log_p.item() == pytest.approx(exact, rel=1e-6, abs=1e-6)
    (grad,) = torch.autograd.grad(log_p, [logits])
    assert grad.item() == pytest.approx(x - 1 / (1 + math.exp(min(700, -logit[0]))), abs=1e-6)


@examples(60)
@given(arrays(ONE, -80.0, 80.0), arrays(ONE, -1e3, 1e3))
def test_normals_of_any_scale(log_var: np.ndarray, away: np.ndarray) -> None:
    square = float(away[0]) ** 2 * math.exp(-float(log_var[0]))
    leaves = [torch.zeros(1, requires_grad=True), torch.tensor(log_var, requires_grad=True)]
    log_p = LogVarNormal(*leaves).log_prob(torch.tensor(away))
    exact = -0.5 * (square + float(log_var[0]) + math.log(2 * math.pi))
    if square > 3e38:  # no number of single precision is that large
        assert log_p.item() == -math.inf
        return
    grads = torch.autograd.grad(log_p, leaves)
    precision = math.exp(-float(log_var[0]))
    for found, right in zip((log_p, *grads), (exact, away[0] * precision, 0.5 * (square - 1))):  # noqa: B905
        assert found.item() == pytest.approx(right, rel=1e-5, abs=1e-5)


@examples(40)
@given(arrays((2,), -80.0, 80.0), arrays((2,), -1e3, 1e3))
def test_divergence_of_normals_of_any_scales(log_var: np.ndarray, loc: np.ndarray) -> None:
    leaves = [torch.tensor(value, requires_grad=True) for value in (*log_var, *loc)]
    q, p = LogVarNormal(leaves[2], leaves[0]), LogVarNormal(leaves[3], leaves[1])
    (a, b), (m, n) = log_var.astype(float), loc.astype(float)
    exact = 0.5 * (math.exp(a - b) + (m - n) ** 2 * math.exp(-b) - 1 - a + b)
    kl = divergence("z", q, p)
    if exact > 1.5e38:
        assert kl.item() > 1e38
        return
    assert kl.item() == pytest.approx(exact, rel=1e-4, abs=1e-4)
    assert all(all_finite(grad) for grad in torch.autograd.grad(kl, leaves))


@examples(20)
@given(arrays((2,), -80.0, 80.0), arrays((2,), -1e3, 1e3))
def test_products_of_normals_of_any_scales(log_var: np.ndarray, loc: np.ndarray) -> None:
    leaves = [torch.tensor(value[None], requires_grad=True) for value in (*log_var, *loc)]
    q = merge(*(dist.Independent(LogVarNormal(leaves[2 + i], leaves[i]), 1) for i in range(2)))
    log_precision = np.logaddexp(*-log_var.astype(float))
    mean = (np.exp(-log_var.astype(float) - log_precision) * loc).sum()
    found = q.base_dist.loc, q.base_dist.log_var
    assert [v.item() for v in found] == pytest.approx([mean, -log_precision], rel=1e-4, abs=1e-4)
    grads = torch.autograd.grad(q.base_dist.loc + q.base_dist.scale, leaves)
    assert all(map(all_finite, grads))


@pytest.mark.parametrize("discrete", [dist.Bernoulli, dist.Categorical, dist.OneHotCategorical])
@examples(20)
@given(arrays((2, 3), -1e4, 1e4))
def test_divergence_of_discrete_distributions(discrete: Any, logits: np.ndarray) -> None:
    table = torch.tensor(logits, requires_grad=True)
    kl = divergence("z", discrete(logits=table[0]), discrete(logits=table[1])).sum()
    log_q, log_p = logits.astype(float)
    if discrete is dist.Bernoulli:
        log_q, log_p = (np.stack([-np.logaddexp(0, -v), -np.logaddexp(0, v)]) for v in logits)
    else:
        log_q, log_p = (v - np.logaddexp.reduce(v) for v in logits.astype(float))
    assert kl.item() == pytest.approx((np.exp(log_q) * (log_q - log_p)).sum(), rel=1e-5, abs=1e-2)
    assert all_finite(torch.autograd.grad(kl, [table])[0])


@pytest.mark.parametrize("log_precision", [-1e4, 1e4])
def test_a_precision_beyond_single_precision_is_cut(log_precision: float) -> None:
    net = RankOneNormalNet(2, 2, ())
    torch.nn.init.constant_(net.log_precision.bias, log_precision)
    q = net(torch.ones(2))
    loss = q.log_prob(q.rsample()) + q.entropy()
    assert all_finite(loss)
    assert all(all_finite(g) for g in torch.autograd.grad(loss, list(net.parameters())))


def test_a_path_whose_product_with_the_draw_would_overflow() -> None:
    loc, x = torch.tensor(1e3, requires_grad=True), torch.tensor([1001.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", 1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            pyro.sample("x", LogVarNormal(z, torch.full((1,), -85.0)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 1):
            pyro.sample("z", dist.Normal(loc, torch.full((1,), 1e-6)))

    loss = STL().differentiable_loss(model, guide, x)
    (grad,) = torch.autograd.grad(loss, [loc])
    assert loss.item() == pytest.approx(0.5 * math.exp(85), rel=1e-4)
    assert grad.item() == pytest.approx(-math.exp(85), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_log_likelihood_of_many_draws_in_pieces(dtype: torch.dtype) -> None:
    model = linear_gaussian.conjugate(exact=True)
    x = 60 * linear_gaussian.data()
    exact = linear_gaussian.log_evidence(model, x).detach().numpy()
    assert exact.max() < -500  # no weight is a number of double precision above 0
    seen: list[int] = []
    model.decoder.register_forward_hook(lambda _, args, __: seen.append(args[0].numel()))
    settings: dict[str, Any] = {"k": 100_000, "particles": 8000, "compile": False}
    found = log_likelihood(model.to(dtype), x.to(dtype), **settings)
    np.testing.assert_allclose(found.values, exact, rtol=1e-8 if dtype == torch.double else 1e-4)
    assert max(seen) == 8000 * linear_gaussian.N * linear_gaussian.Z_DIM
    assert sum(seen) == 100_000 * linear_gaussian.N * linear_gaussian.Z_DIM


@examples(4)
@given(st.data())
def test_log_likelihood_is_finite(drawn: st.DataObject) -> None:
    model = PAIRS["vae-normal"].model.make(ppl_vae.models)
    shapes = {parameter: tuple(p.shape) for parameter, p in model.named_parameters()}
    weights, (x,) = drawn.draw(extremes(shapes, real=True, name="IWAE"))
    model.load_state_dict({p: torch.tensor(value) for p, value in weights.items()}, strict=False)
    found = log_likelihood(model, x, k=3000, particles=1000, compile=False)
    assert np.isfinite(found.values).all()
    assert np.isfinite(found.errors).all()


def test_the_error_of_weights_of_which_the_logarithm_is_rounded() -> None:
    """One weight is all, but sums of squares and squares of sums differ by a rounding."""
    for rounding in (-64.0, 64.0, 1e4):
        found = Estimate.of_weights((np.array([-1e9]), np.array([-2e9 + rounding])), 1000)
        assert 0 <= found.errors[0] <= 1
