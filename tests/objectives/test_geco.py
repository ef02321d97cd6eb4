"""GECO: its state against sums by hand, its optimum against a closed form, resume, bad input."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from support import CASE, equal, make, tensors, weights
from torch import Tensor, nn

from ppl_vae import ELBO, fit, mean_loss
from ppl_vae.inference import GECO
from ppl_vae.models import Model
from ppl_vae.shared.io.safetensors_file import read

VHP = CASE["vhp"]
INNER: dict[str, Any] = {"inner": ("zeta",), "k": 3}


def constant(reconstruction: Tensor) -> None:
    """A model whose -log p(x | z) is its argument."""
    with pyro.plate("data", len(reconstruction)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("x", -reconstruction)


def the_prior(reconstruction: Tensor) -> None:
    """A guide without a divergence."""
    with pyro.plate("data", len(reconstruction)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def states(objective: GECO, values: Sequence[float]) -> list[dict[str, float]]:
    """The state after each of these batches, of two data each."""
    state, result = objective.state(), []
    for value in values:
        data = torch.tensor([value - 1.0, value + 1.0])
        loss, state = objective.with_state(state).loss_and_state(constant, the_prior, data)
        assert loss.item() == pytest.approx(2 * value)
        result.append({name: number.item() for name, number in state.items()})
    return result


BATCHES = (20.0, 14.0, 12.0, 4.0, 2.0, 9.0, 8.0, 30.0, 25.0, 3.0)
SETTINGS: dict[str, Any] = {"start": 0.2, "rate": 0.02, "tau": 2.0, "decay": 0.5}


@pytest.mark.parametrize("update", ["geco", "rewo"])
def test_the_states_by_hand(update: Any) -> None:
    beta, average, reached, expected = 0.2, math.nan, 0.0, []
    for value in BATCHES:
        average = value if math.isnan(average) else 0.5 * average + 0.5 * value
        delta = average - 10.0
        reached = max(reached, float(delta <= 0))
        f = -1.0 if delta > 0 or update == "geco" else math.tanh(2.0 * (beta - 1))
        step = 0.0 if update == "rewo" and not reached else 0.02 * f * delta
        beta *= math.exp(min(max(step, -0.1), 0.1))
        expected.append({"beta": beta, "reconstruction": average, "reached": reached})
    found = states(GECO(10.0, update=update, **SETTINGS), BATCHES)
    for step, by_hand in zip(found, expected, strict=True):
        assert step == pytest.approx(by_hand, rel=1e-5)
    assert [step["reached"] for step in found] == [0.0] * 3 + [1.0] * 7


def test_rewo_waits_and_then_goes_to_one_while_the_constraint_holds() -> None:
    objective = GECO(10.0, start=0.2, rate=0.1, decay=0.0)
    betas = [state["beta"] for state in states(objective, [12.0] * 3 + [7.0] * 100 + [11.0] * 3)]
    assert betas[:3] == pytest.approx([0.2] * 3)
    assert all(np.diff(betas[2:20]) > 0)
    assert betas[102] == pytest.approx(1.0, abs=1e-4)
    assert max(betas) <= 1.0
    assert all(np.diff(betas[102:]) < 0)
    above = [state["beta"] for state in states(GECO(10.0, start=5.0, rate=0.1), [7.0] * 100)]
    assert all(np.diff(above[:20]) < 0)
    assert above[-1] == pytest.approx(1.0, abs=1e-4)


def test_geco_falls_while_the_constraint_is_violated_and_beta_cannot_overflow() -> None:
    objective = GECO(10.0, update="geco", decay=0.0)
    betas = [state["beta"] for state in states(objective, [11.0, 9.0, 9.0])]
    assert betas == pytest.approx([0.01 * math.exp(-0.01), 0.01, 0.01 * math.exp(0.01)])
    for value, bound in ((1e9, 1e-6), (-1e9, 1e6)):
        assert states(objective, [value] * 250)[-1]["beta"] == pytest.approx(bound, rel=1e-4)


class Shrink(Model):
    """p(z) = N(0, 1), p(x | z) = N(z, 1) and q(z | x) = N(a x, s^2), with a and s to learn.

    C + beta KL is least at a = 1 / (1 + beta) and s^2 = beta / (1 + beta).
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.log_s = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(-0.5))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a * x, self.log_s.exp()))


X_SHRINK = 2.0 * np.random.default_rng(0).normal(size=2000).astype(np.float32)


def least_reconstruction(beta: float) -> float:
    """E[C] at the optimum of C + beta KL."""
    b = beta / (1 + beta)
    return 0.5 * math.log(2 * math.pi) + 0.5 * (b**2 * float(np.mean(X_SHRINK**2)) + b)


@pytest.mark.parametrize(
    ("update", "optimum", "beta"), [("geco", 0.5, 0.5), ("geco", 2.0, 2.0), ("rewo", 0.5, 0.5)]
)
def test_training_meets_the_constraint_at_the_closed_form(
    update: Any, optimum: float, beta: float
) -> None:
    model, tolerance = Shrink(), least_reconstruction(optimum)
    objective = GECO(tolerance, update=update, start=0.1, rate=0.1, decay=0.9, k=3)
    run = fit(model, X_SHRINK, objective, epochs=40, batch_size=200, lr=0.03, progress=False)
    assert run["reconstruction"][-10:].mean() == pytest.approx(tolerance, rel=0.02)
    assert run["beta"][-10:].mean() == pytest.approx(beta, rel=0.1)
    assert model.a.item() == pytest.approx(1 / (1 + beta), rel=0.05)
    assert (2 * model.log_s).exp().item() == pytest.approx(beta / (1 + beta), rel=0.1)


def test_rewo_ends_with_the_evidence_bound_where_the_constraint_allows_it() -> None:
    model = Shrink()
    objective = GECO(least_reconstruction(2.0), start=0.05, rate=0.2, k=3)
    run = fit(model, X_SHRINK, objective, epochs=40, batch_size=200, lr=0.03, progress=False)
    assert run["beta"][-1] == pytest.approx(1.0, abs=0.02)
    assert model.a.item() == pytest.approx(0.5, rel=0.05)


def test_a_resumed_run_has_the_same_states(tmp_path: Path) -> None:
    (x,), objective = VHP.data(0), GECO(10.0, **INNER)
    settings: dict[str, Any] = {"batch_size": 5, "lr": 1e-2, "device": "cpu", "progress": False}
    whole = fit(make(VHP), x, objective, epochs=4, out=tmp_path / "whole", **settings)
    fit(make(VHP), x, objective, epochs=2, out=tmp_path / "part", **settings)
    out = tmp_path / "part"
    rest = fit(make(VHP, seed=9), x, objective, epochs=4, out=out, resume=True, **settings)
    assert equal(weights(rest.model), weights(whole.model))
    for column in ("loss", "beta", "reconstruction", "reached"):
        assert np.array_equal(rest[column], whole[column])
        assert len(set(whole[column])) > 1 or column == "reached"
    saved = read(out / "checkpoint.safetensors")[0]
    assert saved["objective.beta"] == np.float32(rest["beta"][-1])
    with pytest.raises(ValueError, match=r"objective\.tolerance was 10\.0"):
        fit(make(VHP), x, GECO(4.0, **INNER), epochs=4, out=out, resume=True, **settings)


def test_svi_advances_the_state_and_fit_starts_anew() -> None:
    settings: dict[str, Any] = {"update": "geco", **INNER}
    (x,), objective = VHP.data(0), GECO(-1e3, start=1.0, **settings)
    data, quiet = torch.as_tensor(x), {"epochs": 1, "device": "cpu", "progress": False}
    first = fit(make(VHP), x, objective, **quiet)
    model = make(VHP)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), loss=objective)
    for _ in range(5):
        svi.step(data)
    before = weights(model)
    for expected in (objective, objective, GECO(-1e3, start=math.exp(-0.5), **settings)):
        pyro.set_rng_seed(0)  # looking at it does not advance it
        loss = expected.loss(model.model, model.guide, data)
        pyro.set_rng_seed(0)
        assert objective.loss(model.model, model.guide, data) == pytest.approx(loss, rel=1e-6)
    assert equal(weights(model), before)
    again = fit(make(VHP), x, objective, **quiet)
    assert again["beta"] == first["beta"]
    assert equal(weights(again.model), weights(first.model))


def test_measured_is_minus_the_bound() -> None:
    model, (x,) = make(VHP), VHP.data(0)
    expected = mean_loss(model, x, ELBO())
    assert mean_loss(model, x, GECO(-5.0)) == pytest.approx(expected, rel=1e-6)
    pyro.set_rng_seed(0)
    run = fit(model, x, GECO(-5.0), epochs=1, validation=x, progress=False, device="cpu")
    assert run["validation_loss"][-1] == pytest.approx(mean_loss(model, x), rel=1e-6)


def run_of(case: str, **settings: Any) -> Any:
    def call() -> None:
        model, data = make(CASE[case]), tensors(CASE[case].inputs(0))
        GECO(3.0, **settings).loss(model.model, model.guide, *data)

    return call


def scaled() -> None:
    model, data = make(VHP), tensors(VHP.data(0))
    GECO(3.0).loss(poutine.scale(model.model, 2.0), model.guide, *data)


def unobserved() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    GECO(3.0).loss(program, program, torch.zeros(3))


def of_all() -> None:
    def program(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))

    GECO(3.0).loss(program, program, torch.zeros(3))


WRONG: dict[str, tuple[Any, str]] = {
    "tolerance": (lambda: GECO(math.nan), "tolerance should be a finite number, was nan"),
    "tolerance-text": (lambda: GECO("70"), "tolerance should be a finite number, was '70'"),
    "k": (lambda: GECO(3.0, k=0), "k should be a whole number of at least 1, was 0"),
    "update": (lambda: GECO(3.0, update="sgd"), r"update should be one of .*'geco'.*was 'sgd'"),
    "start": (lambda: GECO(3.0, start=0.0), "start should be a positive number, was 0.0"),
    "rate": (lambda: GECO(3.0, rate=-1.0), "rate should be a positive number, was -1.0"),
    "tau": (lambda: GECO(3.0, tau=0), "tau should be a positive number, was 0"),
    "decay": (lambda: GECO(3.0, decay=1.5), r"decay should be a number in \[0, 1\], was 1.5"),
    "inner": (lambda: GECO(3.0, inner="zeta"), "inner should be a sequence .* was 'zeta'"),
    "inner-number": (lambda: GECO(3.0, inner=(1,)), r"inner should be a sequence .* was \(1,\)"),
    "unknown": (run_of("vhp", inner=("w",)), r"inner .*\['z', 'zeta'\], had 'w'"),
    "not-latent": (run_of("vhp", inner=("x",)), r"inner .*\['z', 'zeta'\], had 'x'"),
    "of-x": (run_of("hierarchical-skip", inner=("z_3",), k=2), r"inner .*on which 'x' depends"),
    "of-q": (run_of("hierarchical", inner=("z_1",), k=2), r"inner .*on which '(x|z_2)' depends"),
    "enumerated": (run_of("m2-unlabelled"), "site 'y' should be reparametrised"),
    "scaled": (scaled, "site '.*' should have no scale, had 2.0"),
    "unobserved": (unobserved, "model should have an observed site"),
    "global": (of_all, "site 'w' should lie in the data plate"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
