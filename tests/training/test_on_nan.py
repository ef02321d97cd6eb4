"""What `fit` does where a loss or a gradient is not finite: stop, skip the step, restore."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import equal, weights
from torch import Tensor, nn

from ppl_vae import fit
from ppl_vae.inference import ELBO
from ppl_vae.inference.training import step_graph
from ppl_vae.inference.training.trainer import Stepping, Trainer
from ppl_vae.models import Model, StandardNormal
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.turns import Turn

N, BAD = 24, 7


@pytest.fixture(autouse=True)
def recorded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they were recorded, without machine code, which takes seconds to make."""
    monkeypatch.setattr(
        step_graph, "compile_graph", lambda recorded, inputs: torch.no_grad()(recorded)
    )


class Fragile(Model):
    """p(x | z) = N(z + w, 1), with a site of which a datum can be at fault.

    Of a datum marked 1 the loss is NaN, of one marked 2 the gradient alone, and of one marked 3 the
    loss is NaN in every fifth draw.
    """

    def __init__(self) -> None:
        super().__init__()
        self.x_dim, self.prior = 3, StandardNormal(2)
        self.loc = nn.Parameter(torch.zeros(2))
        self.w = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            mark, rest = x[:, 2], x[:, :2]
            marked = {number: (mark == number)[:, None] for number in (1, 2, 3)}
            loc = (z + self.w) * torch.where(marked[1], torch.nan, 1.0)
            root = torch.where(marked[2], self.w - self.w.detach(), 1.0).abs().sqrt()
            loc = loc + root - root.detach()
            loc = loc * torch.where(marked[3] & (z[:, :1] > 0.8), torch.nan, 1.0)
            self.seen = (self.seen + loc.sum()).detach()
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=rest)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 2), 1.0).to_event(1))


def data(mark: float) -> np.ndarray:
    """Of which one datum has the mark."""
    x = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    x[:, 2] = 0
    x[BAD, 2] = mark
    return x


def run(x: np.ndarray, model: Model | None = None, **settings: Any) -> tuple[Model, Any]:
    model = Fragile() if model is None else model
    given: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "progress": False}
    return model, fit(model, x, ELBO(), **{**given, **settings})


STEPS = pytest.mark.parametrize("compile", [False, True])
WORDS = {
    1: r"loss should be finite, was nan at epoch 1, batch {} of 6; first site at fault: 'x', whose",
    2: r"gradient should be finite, was not at epoch 1, batch {} of 6, of the loss .*: .w., whose",
}


def batch_of_the_bad(seed: int = 0) -> int:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed)).tolist()
    return order.index(BAD) // 4 + 1


@STEPS
@pytest.mark.parametrize("mark", [1, 2])
def test_stop_names_the_batch_and_keeps_it(mark: int, compile: bool, tmp_path: Path) -> None:
    number, x = batch_of_the_bad(), data(mark)
    model = Fragile()
    with pytest.raises(FloatingPointError, match=WORDS[mark].format(number)) as error:
        run(x, model, out=tmp_path, compile=compile)
    path = tmp_path / "fault.safetensors"
    assert f"The batch is in {str(path)!r}" in str(error.value)
    arrays, _ = safetensors_file.read(path)
    assert BAD in arrays["indices"]
    np.testing.assert_array_equal(arrays["data.0"], x[arrays["indices"]])
    assert all(value.isfinite().all() for value in model.state_dict().values())


@STEPS
@pytest.mark.parametrize("mark", [1, 2])
def test_skip_goes_on_without_the_step(mark: int, compile: bool) -> None:
    model, history = run(data(mark), on_nan="skip", compile=compile)
    assert history["skipped"].tolist() == [1, 1]
    assert np.isfinite(history["loss"]).all()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    _, clean = run(data(0), on_nan="skip", compile=compile)
    assert clean["skipped"].tolist() == [0, 0]
    assert "skipped" not in run(data(0))[1].rows[0]


@STEPS
@pytest.mark.parametrize("mark", [1, 2])
def test_skip_is_a_run_without_these_batches(mark: int, compile: bool) -> None:
    """Adam's moments and its count stay too: the same weights and loss as of the others alone."""
    x, losses = data(mark), []
    model, history = run(x, on_nan="skip", compile=compile, epochs=1)
    other = Fragile()
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-2)
    pyro.set_rng_seed(0)
    for index in torch.randperm(N, generator=torch.Generator().manual_seed(0)).split(4):
        batch = torch.as_tensor(x)[index]
        with pyro.validation_enabled(False):
            loss = ELBO().differentiable_loss(other.model, other.guide, batch) / 4
        if BAD not in index:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    for name, value in weights(model).items():
        torch.testing.assert_close(value, weights(other)[name])
    assert history["loss"].tolist() == pytest.approx([np.mean(losses)], rel=1e-6)


@STEPS
@pytest.mark.parametrize("mark", [1, 2])
def test_skip_stops_where_nothing_is_left(mark: int, compile: bool, tmp_path: Path) -> None:
    x, model = data(0), Fragile()
    x[:, 2] = mark
    before = weights(model)
    with pytest.raises(FloatingPointError) as error:
        run(x, model, on_nan="skip", compile=compile, out=tmp_path)
    says = "every batch of epoch 1 had a skipped step; the first fault: " + WORDS[mark].format(1)
    assert re.match(says, str(error.value))
    path = tmp_path / "fault.safetensors"
    assert str(error.value).endswith(f"The batch is in {str(path)!r}")
    arrays, text = safetensors_file.read(path)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert arrays["indices"].tolist() == order[:4].tolist()
    np.testing.assert_array_equal(arrays["data.0"], x[arrays["indices"]])
    assert re.fullmatch(says + ".*", text["fault"])
    assert equal(weights(model), before)


def test_skip_stops_in_the_epoch_of_which_nothing_is_left(tmp_path: Path) -> None:
    def spoil(model: Any) -> dict[str, float]:
        model.w.data.fill_(torch.nan)
        return {}

    words = r"every batch of epoch 2 had .*, was nan at epoch 2, batch 1 of 6; .* 'x', whose loc"
    with pytest.raises(FloatingPointError, match=words):
        run(data(0), on_nan="skip", validation=spoil, out=tmp_path)


@pytest.mark.slow
@STEPS
def test_restore_begins_the_epoch_again(compile: bool, caplog: pytest.LogCaptureFixture) -> None:
    tries = []
    for seed in range(6):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ppl_vae"):
            model, history = run(data(3), on_nan="restore", compile=compile, seed=seed, epochs=1)
        assert np.isfinite(history["loss"]).all()
        assert all(value.isfinite().all() for value in model.state_dict().values())
        again, _ = run(data(3), on_nan="restore", compile=compile, seed=seed, epochs=1)
        assert equal(weights(model), weights(again))
        said = [r.getMessage() for r in caplog.records if r.name.startswith("ppl_vae")]
        assert all("The epoch begins again" in line for line in said)
        tries.append(len(said))
    assert max(tries) > 0
    assert min(tries) == 0


def test_restore_gives_up(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with (
        caplog.at_level(logging.WARNING, "ppl_vae"),
        pytest.raises(FloatingPointError, match="loss should be finite"),
    ):
        run(data(1), on_nan="restore", out=tmp_path)
    assert sum("begins again" in record.getMessage() for record in caplog.records) == 3
    assert (tmp_path / "fault.safetensors").exists()


def test_a_word_that_is_no_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="on_nan should be"):
        run(data(0), on_nan="ignore")


def test_a_run_that_stopped_goes_on_with_another_policy(tmp_path: Path) -> None:
    x = data(0)
    run(x, out=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="data"):
        run(data(1), out=tmp_path, epochs=3, resume=True, on_nan="skip")
    _, history = run(x, out=tmp_path, epochs=3, resume=True, on_nan="skip")
    assert len(history.rows) == 3


@pytest.mark.parametrize("at_fault", [0, 1, None])
def test_a_batch_counts_only_if_every_turn_changed_something(at_fault: int | None) -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.stepping = Stepping(on_nan="skip")
    trainer.step = SimpleNamespace(skipped=torch.tensor(3))  # type: ignore[assignment]
    turns = (Turn("guide"), Turn("model"))

    def take_turn(turn: Turn, *_: Any) -> torch.Tensor:
        trainer.step.skipped += int(at_fault is not None and turn == turns[at_fault])
        return torch.tensor(1.0)

    trainer._take_turn = take_turn  # type: ignore[method-assign]
    loss = trainer._take_turns(turns, torch.arange(2), [], "epoch 1, batch 1 of 1")
    assert bool(loss.isnan()) == (at_fault is not None)
