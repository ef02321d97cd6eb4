"""Compiled evaluation gives the numbers of eager evaluation, of the same random state."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import linear_gaussian as exact
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ais_support import EXACT, Program, conditional
from pyro.infer import Trace_ELBO
from support import CASE, make, objective_of
from torch import Tensor, nn

from ppl_vae.inference import ELBO, Objective, compare, log_likelihood, mean_loss
from ppl_vae.inference.compilation import compiled_function
from ppl_vae.inference.compilation.capture import CannotCapture
from ppl_vae.inference.compilation.compiled_function import (
    MIN_SECONDS_TO_COMPILE,
    CompiledFunction,
    estimated_seconds,
    resolve_compile,
)
from ppl_vae.inference.evaluation import ais
from ppl_vae.inference.evaluation.bdmc import bdmc
from ppl_vae.inference.evaluation.hmc import CompiledMoves, State, move
from ppl_vae.inference.evaluation.tempered import Tempered, tempered
from ppl_vae.inference.objectives.parts.base import PyroObjective
from ppl_vae.models import VAE, Model
from ppl_vae.shared.evaluation.annealing import Annealing

AIS: dict[str, Any] = {"method": "ais", "chains": 3, "temperatures": 6, "adaptation": 4}


@pytest.fixture(autouse=True)
def _no_programs() -> Iterator[None]:
    """What one test compiled is no other's."""
    compiled_function.programs.clear()
    yield
    compiled_function.programs.clear()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs as they were recorded, without machine code, which takes seconds to make."""
    graphs: list[Any] = []

    def run(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch.no_grad()(graph)

    monkeypatch.setattr(compiled_function, "compile_graph", run)
    return graphs


def assert_same(evaluate: Callable[..., Any], rtol: float = 1e-9, **settings: Any) -> None:
    eager, compiled = (evaluate(**settings, compile=compile) for compile in (False, True))
    for name in ("values", "errors"):
        given, expected = getattr(compiled, name), getattr(eager, name)
        np.testing.assert_allclose(given, expected, rtol=rtol, atol=rtol, err_msg=name)


def said_by_us(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("ppl_vae")]


EVALUATED = [
    "vae-gaussian",
    "hierarchical-norm",
    "ladder",
    "sbn",
    "sbn-categorical",
    "m2-unlabelled",
    "m2-labelled",
    "cvae",
    "vhp",
    "dlgm-rank-one",
    "classifier",
]


@pytest.mark.parametrize("name", EVALUATED)
def test_weights_of_draws(name: str, recorded: list[Any]) -> None:
    case = CASE[name]
    model = make(case).double()
    data = tuple(np.asarray(part) for part in case.inputs(0))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert_same(lambda **given: log_likelihood(model, data, 3, **given), particles=3)
    assert torch.equal(state, torch.get_rng_state())
    assert len(recorded) == 1
    assert model.training
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_smaller_last_part_has_a_graph_of_its_own(recorded: list[Any]) -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    sizes = {"batch_size": 3, "particles": 4}
    assert_same(lambda **given: log_likelihood(model, x, 10, **given), **sizes)
    assert len(recorded) == 4  # of 3 data and of 1, by 4 particles and by 2
    assert len({graph.code for graph in recorded}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_moves_of_chains(name: str, recorded: list[Any]) -> None:
    program, _, rows = EXACT[name]
    x = np.array(rows)
    model = Program(program, x.shape[1])
    settings = {**AIS, "leapfrog_steps": 2, "max_plate_nesting": 2 if name == "inner" else 1}
    assert_same(lambda **given: log_likelihood(model, x, **given), **settings)
    assert len(recorded) == 1  # of all temperatures and step sizes


@pytest.mark.slow
def test_moves_of_a_smaller_last_batch(recorded: list[Any]) -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    settings = {**AIS, "leapfrog_steps": 2, "batch_size": 3}
    assert_same(lambda **given: log_likelihood(model, x, **given), **settings)
    assert len(recorded) == 2


def test_steps_of_a_move_are_part_of_its_graph(recorded: list[Any]) -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    with torch.no_grad():
        target = Tempered(model.model, x, chains=2)
        by = CompiledMoves(model, compile=True)
        start = target.start()
        state, size = State(start, target.terms(start)), torch.full((4,), 0.3).double()
        for steps in (1, 2, 1):
            for beta in (0.2, 0.9):
                torch.manual_seed(1)
                found, accepted = by(target, state, beta, size, steps)
                torch.manual_seed(1)
                expected, probability = move(target, state, beta, size, steps)
                torch.testing.assert_close(found.position, expected.position)
                torch.testing.assert_close(accepted, probability)
    assert len(recorded) == 2


def test_a_temperature_that_is_a_tensor() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    target = Tempered(model.model, x, chains=2)
    position = target.start()
    prior, likelihood = target.terms(position)
    impossible = torch.where(torch.arange(4) == 1, -torch.inf, likelihood)
    for beta in (0.0, 0.3):
        terms = prior, impossible
        given = torch.tensor(beta, dtype=torch.double)
        assert torch.equal(tempered(terms, given), tempered(terms, beta))
        gradient = target.gradient(position, given)
        torch.testing.assert_close(gradient, target.gradient(position, beta))
        assert gradient.any()


@pytest.mark.slow
@pytest.mark.parametrize("conditions", [False, True])
def test_bidirectional_monte_carlo(conditions: bool, recorded: list[Any]) -> None:
    """What was simulated differs from batch to batch, and is no constant of the graph."""
    model = Program(conditional) if conditions else exact.conjugate(exact=False)
    c = torch.linspace(-3, 3, 7).double()[:, None]
    settings = {**AIS, "leapfrog_steps": 2, "batch_size": 3}
    del settings["method"]
    data: Any = (c, torch.zeros_like(c)) if conditions else 7
    eager, compiled = (bdmc(model, data, **settings, compile=given) for given in (False, True))
    for bound in ("lower", "upper"):
        given, expected = getattr(compiled, bound).values, getattr(eager, bound).values
        np.testing.assert_allclose(given, expected, rtol=1e-9)
        assert len(set(given)) == 7
    assert len(recorded) == 2


@pytest.mark.parametrize("name", ["vae", "dreg", "hierarchical-norm", "m2-unlabelled", "vimco"])
def test_losses(name: str, recorded: list[Any]) -> None:
    case = CASE[name]
    model, data = make(case).double(), case.data(0)
    objective: Objective = objective_of(case)
    settings = {"batch_size": 10, "seed": 4}
    eager, compiled = (
        mean_loss(model, data, objective, **settings, compile=given) for given in (False, True)
    )
    assert compiled == pytest.approx(eager, rel=1e-9)
    assert len(recorded) == 2
    assert "backward" not in recorded[0].code  # no gradients


def test_a_comparison(recorded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_function, "MIN_SECONDS_TO_COMPILE", 0)
    (x,) = CASE["vae"].data(0)
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 12, "k": 4, "repeats": 2}
    tables = []
    for number, compile in ((0, False), (2, "auto")):
        settings |= {"compile": compile, "progress": False}
        tables.append(compare(make(CASE["vae"]).double(), [ELBO()], x, x[:7], **settings))
        assert len(recorded) == number  # a loss and weights
    plt.close("all")
    eager, compiled = (table.drop(columns="seconds_per_epoch") for table in tables)
    np.testing.assert_allclose(compiled, eager, rtol=1e-9)


def test_pyros_own_objectives_stay_eager(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = CASE["vae"]
    model, objective = make(case), PyroObjective(Trace_ELBO())
    with pytest.raises(CannotCapture, match=r"self\.objective\.loss"):
        mean_loss(model, case.data(0), objective, compile=True)
    monkeypatch.setattr(compiled_function, "MIN_SECONDS_TO_COMPILE", 0)
    with caplog.at_level(logging.WARNING, "ppl_vae"):
        found = mean_loss(model, case.data(0), objective, batch_size=5)
    assert found == mean_loss(model, case.data(0), objective, batch_size=5, compile=False)
    assert len(said_by_us(caplog)) == 1


class Looking(Model):
    """A pair that looks at a value on its way."""

    def __init__(self, how: str = "if") -> None:
        super().__init__()
        self.x_dim, self.how = 1, how
        self.loc = nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor) -> None:
        scale = 1.0
        if self.how == "if" and x.sum() > 0:
            scale = 2.0
        if self.how == "item":
            scale = 1.0 + x.abs().max().item()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 1), 1.0).to_event(1))


@pytest.mark.parametrize("method", ["iw", "ais"])
@pytest.mark.parametrize(("how", "place"), [("if", "x.sum"), ("item", r"dist.Normal\(z, scale\)")])
def test_what_looks_at_a_value_is_refused_or_eager(
    method: Any, how: str, place: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    model, x = Looking(how), torch.tensor([[-1.0], [2.0], [0.1]])
    own: dict[str, Any] = AIS if method == "ais" else {"k": 6, "particles": 4}
    settings = {**own, "batch_size": 2}
    with pytest.raises(CannotCapture, match=place):
        log_likelihood(model, x, **settings, compile=True)
    eager = log_likelihood(model, x, **settings, compile=False)
    monkeypatch.setattr(compiled_function, "MIN_SECONDS_TO_COMPILE", 0)
    with caplog.at_level(logging.WARNING, "ppl_vae"):
        found = log_likelihood(model, x, **settings)
    np.testing.assert_array_equal(found.values, eager.values)
    said = said_by_us(caplog)
    assert len(said) == 1
    assert said[0].startswith("evaluation is not compiled: ")


def test_a_wrong_model_is_named_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    monkeypatch.setattr(compiled_function, "MIN_SECONDS_TO_COMPILE", 0)
    model = Program(shared)
    model.guide = lambda x: pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
    settings: dict[str, Any] = {"k": 2}
    for compile in ("auto", True, False):
        with pytest.raises(ValueError, match="site 'z' should lie in the data plate"):
            log_likelihood(model, torch.zeros(2, 1), **settings, compile=compile)


class Net(nn.Module):
    """With all that a call may depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.dropout, self.factor = nn.Dropout(0.5), 2.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.factor * self.dropout(self.norm(self.linear(x)))
        return out


def test_weights_and_modes_of_the_moment_count(recorded: list[Any]) -> None:
    net = Net().double().eval()
    x, moved = torch.randn(5, 3).double(), CompiledFunction(net, [net], compile=True)
    found: list[Tensor] = []

    def agree(x: Tensor, graphs: int) -> None:
        pyro.set_rng_seed(len(found))
        given = moved(x)
        pyro.set_rng_seed(len(found))
        with torch.no_grad():
            torch.testing.assert_close(given, net(x), rtol=1e-12, atol=1e-12)
        assert not given.requires_grad
        assert not any(given.shape == other.shape and given.equal(other) for other in found)
        found.append(given)
        assert len(moved.graphs) == graphs

    agree(x, 1)
    with torch.no_grad():
        net.linear.weight.mul_(2)
        agree(x, 1)
        net.norm.running_mean.add_(1)
        agree(x, 1)
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})
    agree(x, 1)
    net.linear.bias.data = torch.randn(3).double()
    agree(x, 2)
    net.linear.requires_grad_(False)
    agree(x + 1, 2)
    agree(x[:2] + 2, 3)
    net.dropout.train()
    agree(x, 4)


def test_machine_code_is_found_again(recorded: list[Any]) -> None:
    net, x = Net().double().eval(), torch.randn(5, 3).double()
    constant = [1.5]

    def function(x: Tensor) -> Tensor:
        out: Tensor = net(x) + torch.tensor(constant, dtype=torch.double)
        return out

    def run(number: int) -> None:
        with torch.no_grad():
            expected = function(x)
        torch.testing.assert_close(CompiledFunction(function, [net], compile=True)(x), expected)
        assert len(recorded) == number

    run(1)
    with torch.no_grad():
        net.linear.weight.mul_(2)
    run(1)  # a program like the one before
    net.factor = 3.0
    run(2)
    constant[0] = 2.5
    run(3)
    x = x[:4]
    run(4)
    x = x[:3]
    for factor in range(compiled_function.MAX_PROGRAMS):
        net.factor = factor
        run(5 + factor)
    assert len(compiled_function.programs) == compiled_function.MAX_PROGRAMS


def test_auto_goes_by_the_amount_of_work(recorded: list[Any]) -> None:
    model = VAE(784, 50, (200, 200))
    weights = sum(p.numel() for p in model.parameters())
    assert estimated_seconds(model, 1000, 5000) == pytest.approx(1000 * (1e-3 + 1e-7 * weights))
    assert resolve_compile("auto", model, 1000, 5000) == "auto"  # 1000 images, K = 5000
    assert resolve_compile("auto", model, 10, 1000) is False
    assert resolve_compile(True, model, 0, 1) is True
    assert resolve_compile(False, model, 10**9, 1) is False
    with pytest.raises(ValueError, match=r"compile should be True, False or 'auto', was 1\.5"):
        resolve_compile(1.5, model, 1, 1)  # type: ignore[arg-type]
    assert ais.runs_of(Annealing(4, 6, 2, 5)) == (5 + 4) * 7
    assert ais.runs_of(Annealing(4, 6, 2, 5), measured=2) == (10 + 4) * 7
    assert ais.runs_of(Annealing(4, 1, 2, 5)) == 0


@pytest.mark.slow
def test_each_evaluation_counts_its_work(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    counted: list[tuple[int, int]] = []

    def count(model: nn.Module, runs: int, rows: int) -> float:
        counted.append((runs, rows))
        return MIN_SECONDS_TO_COMPILE

    monkeypatch.setattr(compiled_function, "estimated_seconds", count)
    settings = {**AIS, "leapfrog_steps": 2, "batch_size": 3}
    log_likelihood(model, x, 10, particles=4, batch_size=3)
    log_likelihood(model, x, **settings)
    del settings["method"]
    bdmc(model, 4, **settings)
    mean_loss(model, x, ELBO(5), batch_size=3)
    assert counted == [(6, 12), (2 * 8 * 7, 9), (2 * 13 * 7, 9), (2, 15)]
    assert len(recorded) == 4 + 2 + 2 + 2


@pytest.mark.slow
def test_machine_code() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    assert_same(lambda **given: log_likelihood(model, x, **given), **AIS, leapfrog_steps=1)
    model.float()
    assert_same(lambda **given: log_likelihood(model, x, 4, **given), rtol=1e-5)
    doubled = CompiledFunction(lambda x: 2 * x, [], compile=True)
    for dense in (x, x.T.contiguous().T):  # code is for one of them
        assert torch.equal(doubled(dense), 2 * x)
    assert len(doubled.graphs) == 1
