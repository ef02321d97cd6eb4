"""A compiled step does what an eager one does: the same numbers of the same random state."""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES, Case
from support import CASE, make, objective_of, tensors
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from ppl_vae.inference import (
    ELBO,
    BaselineNet,
    ExponentialDecay,
    FreeBits,
    Objective,
    Relaxed,
    Warmup,
)
from ppl_vae.inference.compilation.capture import CannotCapture
from ppl_vae.inference.training import step_graph
from ppl_vae.inference.training.step import Step, parameters_of, svi_step
from ppl_vae.models import Model, StandardNormal

Make = Callable[[Any], Optimizer]


@pytest.fixture
def recorded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they were recorded, without machine code, which takes seconds to make."""

    def run(recorded: Any, inputs: Any) -> Any:
        return torch.no_grad()(recorded)

    monkeypatch.setattr(step_graph, "compile_graph", run)


def adam(parameters: Any) -> Optimizer:
    return Adam(parameters, lr=1e-2, fused=True)


def batch_of(case: Case, objective: Objective) -> tuple[Tensor, ...]:
    """A batch as `fit` makes it, in double precision."""
    data = tensors(case.data(0), torch.double)
    index = next(iter(objective.batches(8, torch.Generator().manual_seed(0), *data)))
    return tuple(part[index] for part in data)


def run(
    model: Model, objective: Objective, batches: list[Any], compile: bool, make: Make = adam
) -> tuple[list[float], dict[str, Tensor], Step]:
    """Losses, and afterwards weights, optimizer state and the objective's numbers."""
    for network in objective.networks().values():
        network.double()
    trained = parameters_of(model, objective)
    optimizer = make([p for p in trained.values() if p.requires_grad])
    made = Step(model, objective, optimizer, compile=compile)
    pyro.set_rng_seed(1)
    losses = []
    for number, batch in enumerate(batches):
        made.epoch = number // 2 + 1
        losses.append(made(*batch).item())
    after = {**model.state_dict(), **{name: p.detach() for name, p in trained.items()}}
    for number, kept in optimizer.state_dict()["state"].items():
        after |= {f"{number}.{name}": value for name, value in kept.items()}
    after |= {f"state.{name}": value for name, value in made.state.items()}
    return losses, after, made


def assert_same_run(runs: Any) -> None:
    (losses, after, _), (other_losses, other_after, made) = runs
    assert made.graphs
    assert losses == pytest.approx(other_losses, rel=1e-9)
    assert len(set(losses)) == len(losses)  # noise is fresh, and weights move
    assert after.keys() == other_after.keys()
    for name, value in after.items():
        torch.testing.assert_close(other_after[name], value, rtol=1e-6, atol=1e-7, msg=name)


def walk_of_graphs() -> Iterator[Any]:
    """Cases that bring a class of objective or of network; and, slow, those that bring a model.

    Recording is the dearest walk, and it is about operations: a pair of networks and an objective
    that others have is no news.
    """
    seen: set[type] = set()
    for case in CASES:
        model = make(case)
        parts = {type(objective_of(case)), *(type(module) for module in model.modules())}
        new, seen = parts - seen, seen | parts
        if new:
            marks = [pytest.mark.slow] if new == {type(model)} else []
            yield pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [*walk_of_graphs()])
@pytest.mark.usefixtures("recorded_alone")
def test_every_objective_and_network_is_in_one_graph(case: Case) -> None:
    runs = []
    for compile in (False, True):
        model = make(case).double()
        objective = objective_of(case).prepare(model, *case.data(0))
        batch = batch_of(case, objective)
        runs.append(run(model, objective, [batch] * 4, compile))
    assert_same_run(runs)


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("ladder", lambda: ELBO(beta=Warmup(2))),
        ("vae", lambda: ELBO(beta=Warmup(3), free_bits=FreeBits(0.3, "unit"))),
        ("sbn-categorical", lambda: Relaxed(ExponentialDecay(1.0, 0.5, 3))),
        ("sbn", lambda: ELBO(2, baseline="average")),
        ("sbn", lambda: ELBO(2, baseline=BaselineNet(6, (3,)))),
    ],
)
@pytest.mark.usefixtures("recorded_alone")
def test_schedules_states_and_networks_are_in_one_graph(name: str, objective: Any) -> None:
    runs = []
    for compile in (False, True):
        pyro.set_rng_seed(0)
        model, given = make(CASE[name]).double(), objective()
        runs.append(run(model, given, [batch_of(CASE[name], given)] * 8, compile))
    assert_same_run(runs)
    assert len(runs[1][2].graphs) == 1


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: Adam(p, lr=1e-2, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1),
        lambda p: AdamW(p, lr=1e-2, weight_decay=0.3),
        lambda p: Adamax(p, lr=1e-2, weight_decay=0.1),
        lambda p: SGD(p, lr=1e-3),
        lambda p: SGD(p, lr=1e-3, momentum=0.9, weight_decay=0.1),
        lambda p: SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
        lambda p: Adam([{"params": p[:3], "lr": 1e-3}, {"params": p[3:], "lr": 1e-2}]),
    ],
    ids=["adam", "adamw", "adamax", "sgd", "momentum", "nesterov", "groups"],
)
@pytest.mark.usefixtures("recorded_alone")
def test_optimizers_and_their_states_are_torchs(make_optimizer: Make) -> None:
    case = CASE["vae"]
    runs = [
        run(make(case).double(), ELBO(), [batch_of(case, ELBO())] * 4, compile, make_optimizer)
        for compile in (False, True)
    ]
    assert_same_run(runs)


@pytest.mark.slow
def test_machine_code() -> None:
    case = CASE["hierarchical-norm"]
    runs = []
    for compile in (False, True):
        model = make(case).double().train()
        (x,) = batch_of(case, ELBO())
        runs.append(run(model, ELBO(), [(x,)] * 4, compile))
    assert_same_run(runs)
    assert len(runs[1][2].graphs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("recorded_alone")
def test_batches_of_two_sizes() -> None:
    case = CASE["hierarchical-norm"]
    runs = []
    for compile in (False, True):
        model = make(case).double().train()
        (x,) = batch_of(case, ELBO())
        runs.append(run(model, ELBO(), [(x,), (x,), (x[:5],), (x,)], compile))
    assert_same_run(runs)
    assert len(runs[1][2].graphs) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("recorded_alone")
def test_what_changes_gets_a_graph_of_its_own() -> None:
    case = CASE["hierarchical-norm"]
    model = make(case).double().train()
    optimizer = adam(list(model.parameters()))
    made = Step(model, ELBO(), optimizer, compile=True)
    (x,) = batch_of(case, ELBO())
    for number, change in enumerate(
        [
            lambda: None,
            lambda: model.eval(),
            lambda: model.decoder.requires_grad_(False),
            lambda: optimizer.load_state_dict(optimizer.state_dict()),
            lambda: optimizer.param_groups[0].update(weight_decay=0.1),
        ]
    ):
        change()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        count = float(next(iter(optimizer.state_dict()["state"].values()), {"step": 0})["step"])
        made(x)
        made(x)
        assert len(made.graphs) == number + 1
        moved = {n for n, value in model.state_dict().items() if not value.equal(before[n])}
        assert any(name.startswith("encoders") and "running" not in name for name in moved)
        assert any("running" in name for name in moved) == (number == 0)
        assert any(name.startswith("decoder.logits") for name in moved) == (number < 2)
        assert next(iter(optimizer.state_dict()["state"].values()))["step"] == count + 2


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.usefixtures("recorded_alone")
def test_what_the_optimizer_does_not_have_stays(compile: bool) -> None:
    case = CASE["vae"]
    model = make(case).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = adam(list(model.encoder.parameters()))
    svi_step(model, ELBO(), optimizer, batch_of(case, ELBO()), compile=compile)(
        *batch_of(case, ELBO())
    )
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {name for name in before if name.startswith("encoder.")}


@pytest.mark.usefixtures("recorded_alone")
def test_an_eager_step_goes_on_where_a_compiled_one_stopped() -> None:
    case = CASE["vae"]
    batch = batch_of(case, ELBO())
    whole = run(make(case).double(), ELBO(), [batch] * 4, False)[1]
    model = make(case).double()
    optimizer = adam(list(model.parameters()))
    made = Step(model, ELBO(), optimizer, compile=True)
    pyro.set_rng_seed(1)
    for compile in (True, False, True, False):
        made.compile = compile
        made(*batch)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-6, atol=1e-7)


class Careless(Model):
    """A pair that does on its way what a graph cannot hold."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.x_dim, self.what, self.calls = 2, what, 0
        self.loc, self.prior = torch.nn.Parameter(torch.zeros(2)), StandardNormal(2)
        self.outside = torch.ones(2)

    def model(self, x: Tensor) -> None:
        scale = 1.0
        if self.what == "looks" and x.sum() > 0:
            scale = 2.0
        if self.what == "item":
            scale = 1.0 + x.abs().max().item()
        if self.what == "counts":
            self.calls += 1
            scale = 1.0 + self.calls
        if self.what == "python":
            scale = 1.0 + random.random()
        if self.what == "numpy":
            scale = 1.0 + float(np.random.rand())  # noqa: NPY002
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            loc = z * self.outside if self.what == "outside" else z
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 2), 1.0).to_event(1))


REFUSED = {
    "looks": r'the program has data-dependent control flow .*if self.what == "looks" and x.sum',
    "item": r"dist.Normal\(loc, scale\)",
    "python": "uses Python's or NumPy's random number generators",
    "numpy": "uses Python's or NumPy's random number generators",
    "counts": "the program changes 'calls' of Careless, which a compiled one would not",
    "outside": r"uses a tensor that is not a parameter, buffer or argument.*z . self.outside",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_graph_is_refused_or_eager(what: str, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(4, 2)
    for compile in (True, "auto"):
        model = Careless(what)
        optimizer = adam(list(model.parameters()))
        if compile is True:
            with pytest.raises(CannotCapture, match=REFUSED[what]):
                svi_step(model, ELBO(), optimizer, (x,), compile=True)
            continue
        with caplog.at_level(logging.WARNING, "ppl_vae"):
            made = svi_step(model, ELBO(), optimizer, (x,))
            made(x)
        said = [r.getMessage() for r in caplog.records if r.name.startswith("ppl_vae")]
        assert len(said) == 1
        assert said[0].startswith("steps are not compiled: ")
        assert model.loc.any()
        assert not made.graphs


FACTOR = {"of x": 1.0}


class Changed(Careless):
    """A pair that reads numbers which somebody may change between steps."""

    def __init__(self) -> None:
        super().__init__("nothing")
        self.scale, self.list, self.array, self.scalar = 1.0, [1.0], np.ones(2), torch.ones(())
        self.drop, self.net = torch.nn.Dropout(0.1), torch.nn.Linear(2, 2)
        self.register_buffer("shift", torch.zeros(2))

    def model(self, x: Tensor) -> None:
        scale = self.scale * self.list[0] * FACTOR["of x"] * self.scalar
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            loc = self.net(self.drop(z)) * torch.as_tensor(self.array).to(x) + self.shift
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "'scale' of Changed": lambda model: setattr(model, "scale", 2.0),
    "0 of Changed": lambda model: model.list.__setitem__(0, 2.0),
    "'array' of Changed": lambda model: model.array.fill(2.0),
    "'scalar' of Changed": lambda model: model.scalar.fill_(2.0),
    "'of x' of module .*test_step": lambda model: FACTOR.update({"of x": 2.0}),
    "'p' of Dropout": lambda model: setattr(model.drop, "p", 0.5),
    "an empty OrderedDict": lambda m: m.net.register_forward_hook(lambda *a: a[2] * 2),
    "'weight' of Linear": lambda m: setattr(m.net, "weight", torch.nn.Parameter(torch.eye(2))),
    "'shift' of Changed": lambda model: setattr(model, "shift", torch.ones(2)),
}


@pytest.mark.parametrize("says", CHANGES)
@pytest.mark.usefixtures("recorded_alone")
def test_what_a_graph_holds_is_refused_once_it_changes(says: str) -> None:
    (x,), found = (torch.randn(4, 2),), []
    for compile in (True, "auto", False):
        FACTOR["of x"] = 1.0
        pyro.set_rng_seed(0)
        model = Changed()
        made = Step(model, ELBO(), adam(list(model.parameters())), compile=compile)
        made(x)
        made(x)
        CHANGES[says](model)
        if compile is True:
            with pytest.raises(CannotCapture, match=f"{says} was changed after a step"):
                made(x)
            continue
        found.append(made(x).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


class Keeps(Careless):
    """A pair that does, where `x` is drawn, what a graph does not do again."""

    def __init__(self, act: Callable[..., Any]) -> None:
        super().__init__("nothing")
        self.act, self.seen, self.last = act, [0], torch.zeros(())
        self.rng, self.drop = np.random.default_rng(0), torch.nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(2))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            loc = self.act(self, z)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def counts(model: Any, z: Tensor) -> Tensor:
    model.seen[0] += 1
    return z * model.seen[0]


def keeps(model: Any, z: Tensor) -> Tensor:
    model.last = z.detach()
    return z


def replaces(model: Any, z: Tensor) -> Tensor:
    model.mean.data = 0.9 * model.mean + 0.1 * z.detach().mean(0)
    return z + model.mean


KEPT: dict[str, Callable[..., Any]] = {
    "the program changes 0 of Keeps": counts,
    "the program changes 'last' of Keeps": keeps,
    "the program sets the .data of 'mean'": replaces,
    "the program changes 'rng' of Keeps": lambda model, z: z * model.rng.random(),
    "the program calls time.perf_counter": lambda model, z: z * time.perf_counter(),
    "the program calls torch.get_rng_state": lambda model, z: checkpoint(
        model.drop, z, use_reentrant=False
    ),
}


@pytest.mark.parametrize("says", KEPT)
@pytest.mark.usefixtures("recorded_alone")
def test_what_a_graph_would_not_do_again_is_refused(says: str) -> None:
    model = Keeps(KEPT[says])
    attributes = dict(vars(model))
    with pytest.raises(CannotCapture, match=says):
        svi_step(model, ELBO(), adam(list(model.parameters())), (torch.randn(4, 2),), compile=True)
    assert {name: vars(model)[name] for name in attributes} == attributes  # the same objects
    assert type(model.last) is Tensor


@pytest.mark.usefixtures("recorded_alone")
def test_hooks_of_parameters_are_refused_also_later() -> None:
    (x,) = (torch.randn(4, 2),)
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        for later in (False, True):
            model = Changed()
            made = Step(model, ELBO(), adam(list(model.parameters())), compile=True)
            if later:
                made(x)
            getattr(model.net.weight, register)(lambda value: None)
            with pytest.raises(CannotCapture, match=r"net\.weight should have no hook"):
                made(x)


def test_a_step_that_changes_nothing_keeps_buffers_that_were_replaced() -> None:
    """A running mean is not what it was at first, after a step that was skipped."""

    def averages(model: Any, z: Tensor) -> Tensor:
        model.mean = 0.9 * model.mean + 0.1 * z.detach().mean(0)
        return z + model.mean

    model = Keeps(averages)
    x = torch.randn(4, 2)
    made = Step(model, ELBO(), adam(list(model.parameters())), compile=False)
    made(x)
    before = model.mean.clone()
    assert before.any()
    made(x * torch.nan)
    assert torch.equal(model.mean, before)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.usefixtures("recorded_alone")
def test_a_loss_that_is_not_finite_changes_nothing(compile: bool) -> None:
    case = CASE["vae-gaussian"]
    model = make(case)
    optimizer = adam(list(model.parameters()))
    made = Step(model, ELBO(), optimizer, compile=compile)
    (x,) = tensors(case.data(0))
    made(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not made(x * torch.nan).isfinite()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert made(x).isfinite()
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_wrong_arguments_are_named() -> None:
    model, (x,) = make(CASE["vae"]), tensors(CASE["vae"].data(0))
    parameters = list(model.parameters())
    for optimizer, says in (
        (torch.optim.RMSprop(parameters), "optimizer should be Adam, AdamW, .* was RMSprop"),
        (Adam(parameters, amsgrad=True), "amsgrad should be False for a step to be compiled"),
        (SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5), "dampening should be 0 .* was 0.5"),
    ):
        with pytest.raises(ValueError, match=says):
            svi_step(model, ELBO(), optimizer, (x,), compile=True)
        eager = svi_step(model, ELBO(), optimizer, (x,))
        assert re.search(says, eager.refused or "")
        assert eager(x).isfinite()
    with pytest.raises(ValueError, match=r"x should have shape \(n, 6\)"):
        svi_step(model, ELBO(), adam(parameters), (x[:, :2],))
