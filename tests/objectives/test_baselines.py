"""Baselines of the ELBO: by sums over all draws, draw by draw, and as `fit` and SVI train them."""

import copy
import math
from pathlib import Path
from typing import Any

import every_draw
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from every_draw import Given, of_states, sbn, tuples, values_of
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import SVI
from support import CASE, assert_same, equal, gradients, make, tensors, weights
from torch import Tensor, nn
from toy import Toy

from ppl_vae import ELBO, fit, mean_loss
from ppl_vae.inference import VIMCO
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.baselines import BaselineNet
from ppl_vae.models import SBN
from ppl_vae.shared.io.safetensors_file import read

SETTINGS: dict[str, Any] = {"progress": False, "device": "cpu", "batch_size": 10, "lr": 1e-2}


def net(seed: int = 0) -> BaselineNet:
    pyro.set_rng_seed(seed)
    return BaselineNet(3, (4,)).double()


def at(objective: ELBO, c: float) -> ELBO:
    return objective.with_state({"baseline": torch.tensor(c, dtype=torch.double)})


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("c", [math.nan, 0.0, -3.0, 1e3])
@pytest.mark.parametrize("network", [False, True])
def test_no_baseline_changes_the_expected_value_and_gradient(
    k: int, c: float, network: bool
) -> None:
    model, x = sbn()
    ours = at(ELBO(k, baseline=net() if network else "average"), c)
    losses = [lambda o=o: every_draw.loss(o, model, x) for o in (ours, ELBO(k))]  # type: ignore[misc]
    parameters = list(model.parameters())
    plain = gradients(losses[1], parameters)
    bound = lambda: -every_draw.expected(lambda w: w.mean(-2), model, x, k)  # noqa: E731
    assert_same(plain, gradients(bound, parameters))
    assert_same(gradients(losses[0], parameters), plain)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("c", [math.nan, -3.0])
def test_the_network_is_trained_by_the_expected_square_of_what_remains(k: int, c: float) -> None:
    model, x = sbn()
    network = net()
    ours = at(ELBO(k, baseline=network), c)
    log_q, log_w = of_states(model, x)

    def square() -> Tensor:
        remains = log_w.detach() - (0.0 if math.isnan(c) else c) - network(x)
        return (log_q.detach().exp() * remains**2).sum()

    found = gradients(lambda: every_draw.loss(ours, model, x), network.parameters())
    assert_same(found[1:], gradients(square, network.parameters())[1:])
    # The square is no part of the loss, and reaches neither model nor guide.
    torch.testing.assert_close(found[0], every_draw.loss(ELBO(k), model, x))


def of_draws(objective: Any, model: SBN, datum: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The probability of each K-tuple of draws, and the gradient of the guide there."""
    guide = [p for name, p in model.named_parameters() if name.startswith("encoders")]
    each = tuples(objective.k)
    log_q = of_states(model, datum)[0].detach()[:, 0]
    grads = []
    for numbers in each:
        with Given(values_of(numbers[:, None] if objective.k > 1 else numbers)):
            loss = objective.differentiable_loss(model.model, model.guide, datum)
        grads.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, guide)]))
    return log_q[each].sum(1).exp(), grads


def variance(objective: Any, model: SBN, x: Tensor) -> float:
    """The variance of the guide's gradient, summed over its entries and over the data."""
    total = 0.0
    for datum in x.split(1):
        prob, grads = of_draws(objective, model, datum)
        stacked = torch.stack(grads)
        mean = (prob[:, None] * stacked).sum(0)
        total += (prob[:, None] * (stacked - mean) ** 2).sum().item()
    return total


class Known(nn.Module):
    """The mean of the signal of each of the two data, less c."""

    def __init__(self, x: Tensor, means: Tensor) -> None:
        super().__init__()
        self.x, self.means = x, means

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.means[(self.x == row).all(-1)][0] for row in x])


def test_better_baselines_have_a_smaller_variance() -> None:
    model, x = sbn()
    log_q, log_w = of_states(model, x)
    means = (log_q.exp() * log_w).sum(0).detach()
    c = means.mean().item()
    assert (means - c).abs().min() > 0.3  # data differ, or a network would have nothing to say
    network = at(ELBO(baseline=Known(x, means - c)), c)
    nvil, average, none = (
        variance(objective, model, x)
        for objective in (network, at(ELBO(baseline="average"), c), ELBO())
    )
    assert nvil < 0.9 * average < 0.3 * none
    of_two = variance(at(ELBO(2, baseline="average"), c), model, x)
    assert of_two == pytest.approx(average / 2)  # particles are independent of one another
    each = [every_draw.variances(VIMCO(3), model, datum) for datum in x.split(1)]
    vimco = sum(v for found in each for name, v in found.items() if name.startswith("encoders"))
    assert vimco < 0.8 * nvil / 3


class Line(nn.Module):
    """C(x) = v x + 1, of shape (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.tensor(0.7, dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        return (self.v * x + 1)[:, None]


C, SCALE = -2.0, 2.5
X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.double)
KINDS = {
    "mixed": {"marked": False},
    "discrete": {"marked": False, "normal": NonreparameterizedNormal},
    "enumerated": {"marked": True, "normal": NonreparameterizedNormal},
}


def seen(toy: Toy, k: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q of enumerated values, log w and log q of what is scored, of the draws by seed 0."""
    pyro.set_rng_seed(0)
    draws = draw(toy.model, toy.guide, x, k=k)
    y, z = draws.guide["y"], draws.guide["z"]
    log_w = sum(site.log_prob for site in draws.model.values()) - y.log_prob - z.log_prob
    scored = [site.log_prob for site in (y, z) if site.needs_score_function]
    weight = y.log_prob.exp() if y.enum_dim else torch.ones_like(log_w)
    assert scored
    return weight, log_w, sum(scored, start=torch.zeros(()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_what_is_taken_from_each_draw(kind: str, k: int, scale: float) -> None:
    """b times the score is added to the loss of a draw, and its value is as it was."""
    toy, line = Toy(3, **KINDS[kind]), Line()

    def of(objective: ELBO) -> tuple[Tensor, dict[str, Tensor]]:
        pyro.set_rng_seed(0)
        programs = [poutine.scale(p, scale=scale) for p in (toy.model, toy.guide)]
        return objective.loss_and_state(*programs, X)

    plain, none = of(ELBO(k))
    loss, state = of(at(ELBO(k, baseline=line), C))
    assert none == {}
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    weight, log_w, score = seen(toy, k, X)
    b = C + line(X)[:, 0].detach()
    added = scale * (weight.detach() * b * score).mean(-2).sum()
    moved = 0
    parameters, options = toy.parameters, {"allow_unused": True, "retain_graph": True}
    for found, base, more in zip(
        torch.autograd.grad(loss, parameters, **options),
        torch.autograd.grad(plain, parameters, **options),
        torch.autograd.grad(added, parameters, **options),
        strict=True,
    ):
        expected = base if more is None else base + more
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        moved += int(more is not None and bool(more.any()))
    assert moved >= 2

    signal = (weight * log_w).detach().reshape(-1, k, len(X)).sum(0)
    square = scale * ((signal - C - line(X)[:, 0]) ** 2).mean(0).sum()
    (found,) = torch.autograd.grad(loss, [line.v])
    torch.testing.assert_close(found, torch.autograd.grad(square, [line.v])[0])
    assert state["baseline"].item() == pytest.approx(0.9 * C + 0.1 * signal.mean().item())


@pytest.mark.parametrize("k", [1, 2])
def test_a_masked_datum_contributes_nothing(k: int) -> None:
    """Loss, gradients of all and the next c are those of the other data."""
    toy, line = Toy(3, marked=False), Line()
    objective, shown = at(ELBO(k, baseline=line), C), torch.tensor([True, False, True])
    values = {"y": torch.tensor([[0, 2, 1], [1, 1, 2]])[:k], "z": torch.randn(k, 3).double()}

    def found(x: Tensor, keep: Tensor, mask: Any) -> list[Tensor]:
        programs = [poutine.mask(p, mask=mask) for p in (toy.model, toy.guide)]
        with Given({name: value[:, keep].squeeze(0) for name, value in values.items()}):
            loss, state = objective.loss_and_state(*programs, x)
        grads = torch.autograd.grad(loss, [*toy.parameters, line.v])
        return [loss.detach(), *grads, state["baseline"]]

    every = torch.ones(3, dtype=torch.bool)
    assert_same(found(X, every, shown), found(X[shown], shown, True))
    with torch.no_grad():
        programs = [poutine.mask(p, mask=False) for p in (toy.model, toy.guide)]
        loss, state = objective.loss_and_state(*programs, X)
    assert (loss.item(), state["baseline"].item()) == (0.0, C)


def coin(bound: Tensor) -> None:
    """A guide, and a model with a bound that is its argument whatever is drawn."""
    with pyro.plate("data", len(bound)):
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))


def coin_model(bound: Tensor) -> None:
    with pyro.plate("data", len(bound)):
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        pyro.factor("x", bound)


def test_the_average_by_hand() -> None:
    """Of batches of several sizes: a batch counts by its mean, and the first begins it."""
    batches = [[20.0, 10.0, 0.0], [-5.0, 5.0], [7.0], [1.0, 2.0, 3.0]]
    objective, c, seen_by_hand = ELBO(2, baseline="average"), math.nan, []
    state, found = objective.state(), []
    assert math.isnan(state["baseline"].item())
    for batch in batches:
        loss, state = objective.with_state(state).loss_and_state(
            coin_model, coin, torch.tensor(batch)
        )
        assert loss.item() == pytest.approx(-sum(batch))
        found.append(state["baseline"].item())
        mean = sum(batch) / len(batch)
        c = mean if math.isnan(c) else 0.9 * c + 0.1 * mean
        seen_by_hand.append(c)
    assert found == pytest.approx(seen_by_hand, rel=1e-6)


def test_svi_advances_the_average_and_looking_does_not() -> None:
    objective, batches = ELBO(baseline="average"), torch.tensor([[4.0, 6.0], [10.0, 20.0]])

    def guide(bound: Tensor) -> None:
        p = pyro.param("p", torch.tensor(0.5))
        with pyro.plate("data", len(bound)):
            pyro.sample("z", dist.Bernoulli(p))

    pyro.clear_param_store()
    svi = SVI(coin_model, guide, pyro.optim.SGD({"lr": 0.0}), objective)
    for batch, c in zip(batches, (5.0, 0.9 * 5.0 + 0.1 * 15.0), strict=True):
        svi.step(batch)
        svi.evaluate_loss(1000 * batch)
        objective.loss(coin_model, guide, 1000 * batch)
        assert objective._state["baseline"].item() == pytest.approx(c)
    assert math.isnan(objective.state()["baseline"].item())  # `fit` starts anew


def test_every_network_is_trained_by_its_own_svi() -> None:
    case = CASE["sbn"]
    data = tensors(case.data(0))
    nets = [BaselineNet(data[0].shape[1], (3,)) for _ in range(2)]
    pairs = [make(case), make(case, seed=1)]
    svis = [
        SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-2}), ELBO(baseline=n))
        for m, n in zip(pairs, nets, strict=True)
    ]
    for mine in (0, 1, 0):
        before = [weights(module) for module in (*nets, *pairs)]
        svis[mine].step(*data)
        for number, module in enumerate((*nets, *pairs)):
            changed = [n for n, v in weights(module).items() if not v.equal(before[number][n])]
            assert changed == (list(before[number]) if number % 2 == mine else [])


SBN_CASE = CASE["sbn"]


def own_net(kind: str) -> Any:
    """A network of the library, or a module of torch's with running statistics."""
    pyro.set_rng_seed(3)
    x_dim = SBN_CASE.data(0)[0].shape[1]
    if kind == "net":
        return BaselineNet(x_dim, (4,))
    layers = [nn.BatchNorm1d(x_dim), nn.Linear(x_dim, 3), nn.Tanh(), nn.Linear(3, 1)]
    return nn.Sequential(*layers) if kind == "torch" else "average"


@pytest.mark.parametrize("kind", ["average", "net", "torch"])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    """The last of the batches of an epoch is smaller."""
    data, nets = SBN_CASE.data(0), [own_net(kind) for _ in range(3)]
    start = copy.deepcopy(nets[0])
    runs = [ELBO(2, baseline=baseline) for baseline in nets]
    whole, part, again = make(SBN_CASE), make(SBN_CASE), make(SBN_CASE, seed=9)
    expected = fit(whole, data, runs[0], epochs=3, out=tmp_path / "whole", **SETTINGS)
    out = tmp_path / "part"
    fit(part, data, runs[1], epochs=1, out=out, **SETTINGS)
    if kind != "average":
        for parameter in nets[2].parameters():
            parameter.detach().fill_(0.1)
    history = fit(again, data, runs[2], epochs=3, out=out, resume=True, **SETTINGS)
    assert equal(weights(again), weights(whole))
    for column in ("loss", "baseline"):
        assert history[column].tolist() == expected[column].tolist()
    assert len(set(history["baseline"])) == 3
    assert history["baseline"][-1] == pytest.approx(-history["loss"][-1], abs=3.0)
    (arrays, _), (others, _) = (
        read(f / "checkpoint.safetensors") for f in (tmp_path / "whole", out)
    )
    assert arrays.keys() == others.keys()
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)
    if kind != "average":
        assert equal(nets[2].state_dict(), nets[0].state_dict())
        trained = {n for n, v in start.state_dict().items() if not v.equal(nets[0].state_dict()[n])}
        assert trained == set(start.state_dict())
        assert {f"network.baseline.{name}" for name in trained} <= arrays.keys()


@pytest.mark.parametrize("kind", ["net", "torch"])
def test_it_is_adam_written_out(kind: str) -> None:
    """With all data in a batch: the network takes the steps of the model's optimizer."""
    (x,), network = SBN_CASE.data(0), own_net(kind)
    by_hand, model = copy.deepcopy(network), make(SBN_CASE)
    other = copy.deepcopy(model)
    objective = ELBO(baseline=by_hand)
    fit(model, x, ELBO(baseline=network), epochs=3, **{**SETTINGS, "batch_size": len(x)})
    optimizer = torch.optim.Adam([*other.parameters(), *by_hand.parameters()], lr=1e-2)
    pyro.set_rng_seed(0)
    order, state = torch.Generator().manual_seed(0), objective.state()
    for _ in range(3):
        batch = torch.as_tensor(x)[torch.randperm(len(x), generator=order)]
        optimizer.zero_grad()
        now = objective.with_state(state)
        loss, state = now.loss_and_state(other.model, other.guide, batch)
        (loss / len(x)).backward()
        optimizer.step()
    for a, b in ((model, other), (network, by_hand)):
        for name, value in a.state_dict().items():
            torch.testing.assert_close(value, b.state_dict()[name])


def test_another_baseline_is_not_gone_on_with(tmp_path: Path) -> None:
    data = SBN_CASE.data(0)
    fit(make(SBN_CASE), data, ELBO(baseline=own_net("torch")), epochs=1, out=tmp_path, **SETTINGS)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    wider = own_net("torch")
    wider[1], wider[3] = nn.Linear(len(data[0][0]), 5), nn.Linear(5, 1)
    wider_nets = [ELBO(), ELBO(baseline="average"), ELBO(baseline=own_net("net"))]
    for other in (*wider_nets, ELBO(baseline=wider)):
        model = make(SBN_CASE)
        start = weights(model)
        with pytest.raises(ValueError, match=r"objective\.(network|baseline) was"):
            fit(model, data, other, epochs=2, out=tmp_path, resume=True, **SETTINGS)
        assert equal(weights(model), start)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


class Bare(nn.Module):
    """What a description does not tell: the size of a parameter."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.v.sum() * x[:, 0]


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    data = SBN_CASE.data(0)
    fit(make(SBN_CASE), data, ELBO(baseline=Bare(2)), epochs=1, out=tmp_path, **SETTINGS)
    model = make(SBN_CASE)
    start = weights(model)
    with pytest.raises(ValueError, match=r"baseline should be the network .* had \{'v': \(3,\)\}"):
        fit(model, data, ELBO(baseline=Bare(3)), epochs=2, out=tmp_path, resume=True, **SETTINGS)
    assert equal(weights(model), start)


def test_what_is_measured_has_no_baseline() -> None:
    model, data = make(SBN_CASE), SBN_CASE.data(0)
    for baseline in ("average", own_net("net")):
        objective: Any = ELBO(2, baseline=baseline)
        run = fit(model, data, objective, epochs=1, validation=data, **SETTINGS)
        assert run["validation_loss"][0] == mean_loss(model, data, ELBO(2))
    vae = CASE["vae"]
    assert mean_loss(make(vae), vae.data(0), ELBO(baseline="average")) == mean_loss(
        make(vae), vae.data(0)
    )


class Unused(BaselineNet):
    def __init__(self) -> None:
        super().__init__(6, (3,))
        self.extra = nn.Parameter(torch.ones(2))


def shared() -> Any:
    model = make(SBN_CASE)
    objective = ELBO(baseline=nn.Sequential(model.encoders[0].logits, nn.Linear(1, 1)))
    return fit(model, SBN_CASE.data(0), objective, epochs=1, **SETTINGS)


def run_of(case: Any, baseline: Any) -> Any:
    return fit(make(case), case.data(0), ELBO(baseline=baseline), epochs=1, **SETTINGS)


def with_nan() -> Any:
    network = own_net("net")
    network.value.bias.detach().fill_(math.nan)
    return run_of(SBN_CASE, network)


def own_scales() -> float:
    toy = Toy(3, marked=False)
    return ELBO(baseline="average").loss(poutine.scale(toy.model, scale=2.0), toy.guide, X)


def subsampled() -> float:
    toy = Toy(3, marked=False)
    toy.subsample_size = 2
    return ELBO(baseline=Line()).loss(toy.model, toy.guide, X)


WRONG: dict[str, tuple[Any, str]] = {
    "word": (lambda: ELBO(baseline="mean"), r"baseline .* torch\.nn\.Module, was 'mean'"),  # type: ignore[arg-type]
    "number": (lambda: ELBO(baseline=3.0), "baseline should be None, 'average' or a .* was 3.0"),  # type: ignore[arg-type]
    "class": (lambda: ELBO(baseline=BaselineNet), "baseline .* was the class BaselineNet"),  # type: ignore[arg-type]
    "shape": (
        lambda: run_of(SBN_CASE, nn.Linear(6, 2)),
        r"baseline .* shape \(10,\) or \(10, 1\), gave shape \(10, 2\)",
    ),
    "distribution": (
        lambda: run_of(SBN_CASE, make(SBN_CASE).encoders[0]),
        "baseline should be a network that gives each datum a number, .* gave Bernoullis",
    ),
    "subsampled": (subsampled, r"baseline .* shape \(2,\) or \(2, 1\), gave shape \(3, 1\)"),
    "nothing": (lambda: run_of(CASE["vae"], "average"), "baseline should be None .* was 'average'"),
    "enumerated": (
        lambda: run_of(CASE["m2-unlabelled"], BaselineNet(6)),
        "baseline should be None .* was BaselineNet",
    ),
    "scales": (own_scales, "baseline should be None for sites with scales of their own, had 2.0"),
    "unused": (lambda: run_of(SBN_CASE, Unused()), "did not: network:baseline.extra"),
    "shared": (shared, "baseline should have parameters of its own, but .* of the model"),
    "nan": (with_nan, "parameter 'network:baseline.value.bias' should be finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["average", "net", "torch"])
def test_on_cuda(kind: str) -> None:
    network = own_net(kind)
    objective = ELBO(2, baseline=network)
    run = fit(
        make(SBN_CASE), SBN_CASE.data(0), objective, epochs=2, **{**SETTINGS, "device": "cuda"}
    )
    assert np.isfinite(run["baseline"]).all()
    if kind != "average":
        assert {p.device.type for p in network.parameters()} == {"cuda"}
