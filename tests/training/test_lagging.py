"""Aggressive updates of the guide: who is stepped, when, on what, and when it is over."""

import copy
import itertools
from pathlib import Path
from typing import Any

import linear_gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from lagging_support import GUIDES
from pyro.infer import SVI, Trace_ELBO
from support import CASE, equal, make, unchanged, weights
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_vae import ELBO, Model, SemiSupervised, fit
from ppl_vae.inference import GECO, BaselineNet, History, Warmup, mean_loss
from ppl_vae.inference.training import lagging
from ppl_vae.inference.training.lagging import Lagging, guide_parameters
from ppl_vae.inference.training.trainer import Trainer
from ppl_vae.models import DiagNormalNet, StandardNormal
from ppl_vae.shared.evaluation.elbo_surgery import ElboSurgery
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.io.safetensors_file import read
from ppl_vae.shared.training.turns import Turn

VAE_CASE = CASE["vae"]
(X,) = VAE_CASE.data(0)
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}
SETTINGS: dict[str, Any] = {"batch_size": 10, "lr": 1e-2, "seed": 3, **QUIET}
SMALL = {"max_steps": 6, "window": 2}


@pytest.mark.parametrize("name", GUIDES)
def test_the_parameters_of_the_guide(name: str) -> None:
    model = make(CASE[name])
    found = guide_parameters(model, *CASE[name].inputs(0))
    assert set(found) == {
        key for key, _ in model.named_parameters() if key.split(".")[0] in GUIDES[name]
    }


def test_looking_for_them_changes_nothing() -> None:
    model = make(CASE["hierarchical-norm"]).train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    guide_parameters(model, *CASE["hierarchical-norm"].inputs(0))
    assert equal(before, model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_parameters_are_nobodys() -> None:
    model = make(VAE_CASE)
    model.encoder.loc.requires_grad_(False)
    found = guide_parameters(model, X)
    assert set(found) == {
        f"encoder.{name}"
        for name, _ in model.encoder.named_parameters()
        if not name.startswith("loc.")
    }
    model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="guide should have trained parameters of its own"):
        fit(model, X, Lagging(), epochs=1, **QUIET)


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0], 9),  # falls to the end
        ([5.0, 5.0, 4.0, 4.0, 3.0, 5.0, 2.0, 2.0, 1.0], 6),  # 4, and then 4: not lower
        ([5.0, 5.0, 6.0, 4.1, 9.0, 9.0, 9.0, 9.0, 9.0], 4),
        ([5.0, 9.0, 9.0, 4.0, 1.0, 9.0, 9.0, 1.0, 0.0], 8),  # single losses do not count
    ],
)
def test_the_steps_end_when_the_mean_of_a_window_is_no_longer_lower(
    losses: list[float], steps: int
) -> None:
    turn, seen = Turn("guide", max_steps=9, window=2), np.zeros(9)
    for taken, loss in enumerate(losses, start=1):
        seen[taken - 1] = loss
        if turn.over(seen, taken):
            break
    assert taken == steps
    assert Turn().over(seen, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_steps": 5}, "window should be a number of steps .* was None with max_steps 5"),
        ({"max_steps": 0}, "max_steps should be a whole number of at least 1, was 0"),
        ({"max_steps": 4, "window": 0}, "window should be a whole number of at least 1, was 0"),
        ({"max_steps": 3, "window": 2}, "max_steps should be at least 2 window = 4, .* was 3"),
        ({"window": 1}, "max_steps should be at least 2 window = 2, .* was 1"),
    ],
)
def test_a_turn_that_could_not_be_taken_is_refused(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Turn("guide", **arguments)


class Recorder:
    """The steps of a run: the group, the weights before and after, the losses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[str | None] = []
        self.changed: list[set[str]] = []
        self.losses: list[float] = []
        self.batches: list[Tensor] = []
        self.stop_at: str | None = "nowhere"
        inner = Trainer.take_step

        def step(trainer: Trainer, index: Tensor, batches: int, group: str | None = None) -> Tensor:
            if group == self.stop_at:
                raise KeyboardInterrupt
            before = weights(trainer.model)
            loss = inner(trainer, index, batches, group)
            after = weights(trainer.model)
            self.groups.append(group)
            self.changed.append(set(after) - set(unchanged(before, after)))
            self.losses.append(loss.item())
            self.batches.append(trainer.batches[index][0])
            return loss

        monkeypatch.setattr(Trainer, "take_step", step)

    def turns(self) -> list[tuple[str | None, int]]:
        """Each turn with its number of steps."""
        return [(group, len(list(steps))) for group, steps in itertools.groupby(self.groups)]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What will be measured after each epoch; the first is what `prepare` finds."""
    found: list[float] = []

    def surgery(model: Model, data: Any, **settings: Any) -> ElboSurgery:
        # Not 0.1 + 0.1: the mean has to be exact.
        value = Estimate(np.full(2, found.pop(0)), np.full(2, np.nan))
        return ElboSurgery(value, value)

    monkeypatch.setattr(lagging, "elbo_surgery", surgery)
    return found


def run(model: Model, objective: Any, epochs: int, data: Any = X, **settings: Any) -> History:
    return fit(model, data, objective, epochs=epochs, **{**SETTINGS, **settings})


@pytest.mark.parametrize("name", ["vae", "ladder"])
def test_who_is_stepped(name: str, recorder: Recorder, series: list[float]) -> None:
    case = CASE[name]
    model = make(case)
    own = set(guide_parameters(model, *case.inputs(0)))
    series += [0.0, 1.0, 0.5]
    run(model, Lagging(**SMALL), 3, case.data(0))
    expected = {"guide": own, "model": set(weights(model)) - own, None: set(weights(model))}
    assert all(
        changed == expected[group]
        for group, changed in zip(recorder.groups, recorder.changed, strict=True)
    )
    turns = recorder.turns()
    batches = 3  # of 24 data
    assert [group for group, _ in turns] == ["guide", "model"] * 2 * batches + [None]
    assert turns[-1][1] == batches
    assert all(count == 1 for group, count in turns if group == "model")
    taken = [count for group, count in turns if group == "guide"]
    assert min(taken) >= 4
    assert max(taken) == 6


def test_each_turn_of_the_guide_ends_by_the_rule(recorder: Recorder) -> None:
    run(make(VAE_CASE), Lagging(max_steps=20, window=2), 1)
    start, ends = 0, set()
    for group, count in recorder.turns():
        losses = np.array(recorder.losses[start : start + count])
        start += count
        if group == "model":
            continue
        means = losses.reshape(-1, 2).mean(1)
        assert (np.diff(means[:-1]) < 0).all()
        assert count == 20 or means[-1] >= means[-2]
        ends.add(count)
    assert len(ends) > 1


def test_batches_of_the_guide_are_random_and_whole(recorder: Recorder) -> None:
    binary = (np.arange(len(X))[:, None] >> np.arange(6)) & 1  # tells each datum from others
    objective = Lagging(max_steps=8, window=4, patience=9)
    run(make(VAE_CASE), objective, 3, binary.astype(np.float32))
    inner = [b for b, g in zip(recorder.batches, recorder.groups, strict=True) if g == "guide"]
    outer = [b for b, g in zip(recorder.batches, recorder.groups, strict=True) if g != "guide"]
    assert {len(batch) for batch in inner} == {10}
    assert sorted(len(batch) for batch in outer) == [4] * 3 + [10] * 6
    distinct = {tuple(batch.flatten().tolist()) for batch in inner}
    assert len(distinct) == 2 * 3  # of each epoch's other order
    assert not distinct & {tuple(batch.flatten().tolist()) for batch in outer}


def test_the_loss_of_an_epoch_is_that_of_the_models_steps(recorder: Recorder) -> None:
    history = run(make(VAE_CASE), Lagging(**SMALL), 1)
    of_model = [v for v, g in zip(recorder.losses, recorder.groups, strict=True) if g == "model"]
    assert history["loss"][0] == np.mean(of_model)


@pytest.mark.parametrize(
    ("patience", "found", "lag", "best"),
    [
        (1, [0.25, 0.5, 0.5, 0.375], [1, 1, 1, 0, 0], [0.25, 0.5, 0.5, 0.5, 0.5]),
        (1, [-0.25, -0.5], [1, 0, 0, 0, 0], [-0.25] * 5),
        (2, [0.25, 0.125, 0.5, 0.25], [2, 1, 1, 0, 0], [0.25, 0.25, 0.5, 0.5, 0.5]),
    ],
)
def test_the_phase_ends_when_the_mutual_information_falls(
    patience: int,
    found: list[float],
    lag: list[float],
    best: list[float],
    recorder: Recorder,
    series: list[float],
) -> None:
    series += [9.0, *found]
    history = run(make(VAE_CASE), Lagging(**SMALL, patience=patience), 5, batch_size=24)
    assert history["lagging"].tolist() == lag
    assert history["mutual_information"].tolist() == best
    assert series == []  # and is not measured any more
    assert recorder.turns()[-1] == (None, lag.count(0) - 1)


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, objective = make(VAE_CASE), Lagging(**SMALL, subset=7)
    history = run(model, objective, 1)
    expected = lagging.elbo_surgery(model, X[:7]).mutual_information.values.mean()
    assert history["mutual_information"][0] == np.float32(expected)


def test_adam_counts_the_steps_of_each_parameter(
    series: list[float], recorder: Recorder, tmp_path: Path
) -> None:
    model = make(VAE_CASE)
    series += [0.0, 0.5, 0.25]
    run(model, Lagging(**SMALL), 3, out=tmp_path)
    arrays, _ = read(tmp_path / "checkpoint.safetensors")
    ours = set(guide_parameters(model, X))
    for number, name in enumerate(weights(model)):
        steps = [g for g in recorder.groups if g in (None, "guide" if name in ours else "model")]
        assert arrays[f"optimizer.{number}.step"] == len(steps)
    assert recorder.groups.count("model") == 2 * 3 < recorder.groups.count("guide")


RESUMED = {
    "vae": (lambda: Lagging(ELBO(beta=Warmup(4)), **SMALL), X),
    "geco": (lambda: Lagging(GECO(4.0), **SMALL), X),
    "baseline": (lambda: Lagging(ELBO(2, baseline=BaselineNet(6, (4,))), **SMALL), X),
}


@pytest.mark.parametrize("kind", RESUMED)
@pytest.mark.parametrize("stops", [(1, 2), (3,)])
def test_a_resumed_run_is_the_run(
    kind: str, stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which the phase lasts three epochs."""
    case = CASE["sbn" if kind == "baseline" else "vae"]
    make_objective, data = RESUMED[kind]
    real, found = lagging.elbo_surgery, {"full": [0, 1, 2, 3, 1], "parts": [0, 1, 2, 3, 1]}

    def go(name: str, epochs: int, seed: int = 0) -> History:
        def surgery(model: Model, data: Any, **settings: Any) -> ElboSurgery:
            value = real(model, data, **settings)
            return ElboSurgery(value.kl, Estimate(np.array([found[name].pop(0)] * 2), np.zeros(2)))

        monkeypatch.setattr(lagging, "elbo_surgery", surgery)
        pyro.set_rng_seed(5)
        objective, model = make_objective(), make(case, seed)
        return run(model, objective, epochs, data, out=tmp_path / name, resume=True)

    full = go("full", 5)
    for epochs in stops:
        go("parts", epochs)
        found["parts"].insert(0, 0)
    history = go("parts", 5, seed=99)
    assert full["lagging"].tolist() == [1, 1, 1, 0, 0]
    (arrays, text), (others, other_text) = (
        read(tmp_path / name / "checkpoint.safetensors") for name in ("full", "parts")
    )
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
    assert text == other_text
    assert history["loss"].tolist() == full["loss"].tolist()


def test_a_run_with_another_objective_inside_is_not_resumed(tmp_path: Path) -> None:
    run(make(VAE_CASE), Lagging(ELBO(2), **SMALL), 1, out=tmp_path)
    for other in (Lagging(ELBO(2, True), **SMALL), Lagging(ELBO(2), max_steps=8, window=2)):
        with pytest.raises(ValueError, match="cannot resume"):
            run(make(VAE_CASE), other, 2, out=tmp_path, resume=True)


def test_the_guide_comes_near_the_posterior_of_the_model_as_it_is(recorder: Recorder) -> None:
    """Before the first step of the model: KL(q(z | x) || p(z | x)) in closed form."""
    pyro.set_rng_seed(1)
    model = linear_gaussian.conjugate(exact=False)
    x = linear_gaussian.data().repeat(25, 1)

    @torch.no_grad()
    def divergence() -> float:
        q = model.encoder(x).base_dist
        q = torch.distributions.MultivariateNormal(q.loc, torch.diag_embed(q.scale**2))
        return float(kl_divergence(q, linear_gaussian.posterior(model, x)).mean())

    before, start, recorder.stop_at = divergence(), weights(model), "model"
    with pytest.raises(KeyboardInterrupt):
        run(model, Lagging(max_steps=400, window=20), 1, x, batch_size=50, lr=0.03)
    assert set(unchanged(start, weights(model))) == {n for n in start if n.startswith("decoder")}
    assert len(recorder.groups) < 400
    assert divergence() < 0.1 < 0.5 < before


def test_the_objective_inside_does_the_rest(recorder: Recorder) -> None:
    model = make(CASE["sbn"])
    network = BaselineNet(6, (4,))
    objective = Lagging(ELBO(2, baseline=network, beta=Warmup(2)), **SMALL)
    assert objective.at(1).objective.beta == 0.5
    assert objective.num_particles == 2
    moved = {"guide": 0, "model": 0}
    inner = Trainer.take_step

    def step(trainer: Trainer, index: Tensor, batches: int, group: str | None = None) -> Tensor:
        before = weights(network)
        loss = inner(trainer, index, batches, group)
        moved[str(group)] += not equal(before, weights(network))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", step)
        history = run(model, objective, 1)
    assert moved == {"guide": recorder.groups.count("guide"), "model": 0}
    assert np.isfinite(history["baseline"][0])
    assert mean_loss(model, X, objective) == mean_loss(model, X, ELBO(2))


def test_numbers_of_the_objective_advance_with_every_step(recorder: Recorder) -> None:
    objective = GECO(-99.0, update="geco", rate=1.0)  # log beta falls by 0.1 in each step
    history = run(make(VAE_CASE), Lagging(objective, **SMALL), 1)
    expected = np.log(objective.start) - 0.1 * len(recorder.groups)
    assert np.log(history["beta"][0]) == pytest.approx(expected, rel=1e-4)


def test_pyros_own_elbo(recorder: Recorder) -> None:
    history = run(make(VAE_CASE), Lagging(Trace_ELBO(), **SMALL), 1)
    assert {"guide", "model"} == set(recorder.groups)
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 0}, "max_steps should be a whole number of at least 1, was 0"),
        ({"max_steps": 19}, r"max_steps should be at least 2 window = 20, .* was 19"),
        ({"window": 0}, "window should be a whole number of at least 1, was 0"),
        ({"window": 2.5}, r"window should be a whole number of at least 1, was 2\.5"),
        ({"patience": 0}, "patience should be a whole number of at least 1, was 0"),
        ({"subset": 1}, "subset should be a whole number of at least 2, was 1"),
        ({"objective": SemiSupervised()}, "objective should be a bound .* was SemiSupervised"),
        ({"objective": Lagging()}, "objective should be a bound .* was Lagging"),
        ({"objective": "elbo"}, r"objective should be a ppl_vae objective or a pyro\.infer"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lagging(**arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsnn", "guide should have trained parameters of its own"),
        ("cvae", r"model should have one prior p\(z\) for all data"),
        ("classifier", "guide should have trained parameters of its own"),
    ],
)
def test_pairs_that_it_is_not_for(name: str, message: str, recorder: Recorder) -> None:
    with pytest.raises(ValueError, match=message):
        run(make(CASE[name]), Lagging(), 1, CASE[name].data(0))
    assert recorder.groups == []  # said before training


def test_svi_cannot_step_groups() -> None:
    model = make(VAE_CASE)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), loss=Lagging())
    with pytest.raises(ValueError, match=r"Lagging should be trained by ppl_vae\.inference\.fit"):
        svi.step(torch.as_tensor(X))


def test_a_fault_in_a_step_of_the_guide_is_named() -> None:
    model = linear_gaussian.vae()
    x = torch.ones(20, 3, dtype=torch.double)
    with pytest.raises(FloatingPointError, match=r"at epoch 1, batch 1 of 2; first site at fault"):
        run(model, Lagging(), 1, x, lr=1e200)


class Sequence(Model):
    """p(x | z) = prod_t p(x_t | x_1, ..., x_{t-1}, z): what is before tells much of what comes."""

    def __init__(self, x_dim: int, z_dim: int) -> None:
        super().__init__()
        self.x_dim = x_dim
        self.prior, self.encoder = StandardNormal(z_dim), DiagNormalNet(x_dim, z_dim, (16,))
        self.decoder = nn.Sequential(nn.Linear(z_dim, 16), nn.Tanh(), nn.Linear(16, x_dim))
        self.before = nn.Parameter(torch.zeros(x_dim, x_dim))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            logits = self.decoder(z) + (2 * x - 1) @ self.before.tril(-1).T
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encoder(x))


@pytest.mark.slow
def test_a_strong_decoder_does_not_leave_the_latents_unused() -> None:
    """Noisy copies of 8 patterns, which are told from one another by their first bits."""
    rng = np.random.default_rng(0)
    patterns = rng.random((8, 10)) < 0.5
    noise = rng.random((500, 10)) < 0.05
    x = (patterns[rng.integers(8, size=500)] ^ noise).astype(np.float32)
    found = []
    for objective in (ELBO(), Lagging(max_steps=40)):
        pyro.set_rng_seed(0)
        model = Sequence(10, 2)
        run(model, objective, 15, x, batch_size=100, lr=0.02)
        found.append(lagging.elbo_surgery(model, x).mutual_information.values.mean())
    assert found[0] < 0.05
    assert found[1] > 0.15
