"""A run that was interrupted, anywhere and by anything, ends as the run that was not."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from resume_support import (
    SEMI,
    assert_same_run,
    other_weights,
    run,
    validation,
)
from support import CASE, equal, make, start_python, trained, weights

from ppl_vae import Model, fit
from ppl_vae.inference import History
from ppl_vae.shared.io.safetensors_file import read
from ppl_vae.shared.training.checkpoints import Checkpoint


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The run without interruption."""
    return run(tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("stops", [(1,), (2, 3), (1, 2, 3, 4), (5,)])
def test_after_a_stop_at_the_end_of_an_epoch(
    stops: tuple[int, ...], full: History, tmp_path: Path
) -> None:
    for epochs in stops:
        run(tmp_path, epochs, other_weights() if epochs != stops[0] else None, resume=True)
    model = other_weights()
    history = run(tmp_path, model=model, resume=True)
    assert_same_run(tmp_path, full.out, history, full)
    assert equal(weights(model), weights(full.model))


def stop_at(epoch: int) -> Any:
    calls = []

    def interrupted(model: Model) -> dict[str, float]:
        calls.append(model)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return validation(model)

    return interrupted


@pytest.mark.parametrize("epoch", [1, 3])
def test_after_an_interruption_before_the_metrics(
    epoch: int, full: History, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, validation=stop_at(epoch))
    model = other_weights() if epoch > 1 else make(SEMI)
    assert_same_run(tmp_path, full.out, run(tmp_path, model=model, resume=True), full)


def test_after_an_interruption_between_metrics_and_checkpoint(
    full: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoint.save

    def interrupted(self: Checkpoint, out: Path) -> None:
        if self.epoch == 3:
            raise KeyboardInterrupt
        save(self, out)

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3
    assert_same_run(tmp_path, full.out, run(tmp_path, resume=True), full)


def test_after_an_interruption_while_the_checkpoint_is_written(
    full: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, epochs=2)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, resume=True)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    (tmp_path / "checkpoint.safetensors.unfinished").write_bytes(b"half of a file")
    (tmp_path / "metrics.csv.unfinished").write_bytes(b"epo")
    assert_same_run(tmp_path, full.out, run(tmp_path, resume=True), full)
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.slow
def test_after_a_kill_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
import resume_support
from ppl_vae import SemiSupervised
loss = SemiSupervised.differentiable_loss
def slow(*arguments):
    time.sleep(0.02)
    return loss(*arguments)
SemiSupervised.differentiable_loss = slow
resume_support.run(Path({str(tmp_path / "killed")!r}), epochs=1000)
"""
    process = start_python(program)
    metrics = tmp_path / "killed" / "metrics.csv"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = int(read(tmp_path / "killed" / "checkpoint.safetensors")[1]["epoch"])
    assert done >= 2
    history = run(tmp_path / "killed", done + 3, other_weights(), resume=True)
    uninterrupted = run(tmp_path / "whole", done + 3)
    assert_same_run(tmp_path / "killed", tmp_path / "whole", history, uninterrupted)


def test_a_run_that_is_done_is_given_back_as_it_is(full: History, tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    model = other_weights()
    history = run(tmp_path, model=model, resume=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert equal(weights(model), weights(full.model))
    assert len(history.rows) == 5


def test_resume_without_a_run_begins_one(full: History, tmp_path: Path) -> None:
    assert_same_run(tmp_path, full.out, run(tmp_path, resume=True), full)


def test_a_run_from_the_start_replaces_the_one_that_is_there(full: History, tmp_path: Path) -> None:
    run(tmp_path, seed=8)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, validation=stop_at(1))
    assert_same_run(tmp_path, full.out, run(tmp_path, resume=True), full)


def test_without_resume_a_run_is_the_same_again(full: History, tmp_path: Path) -> None:
    run(tmp_path, epochs=3)
    assert_same_run(tmp_path, full.out, run(tmp_path), full)


def test_seconds_of_earlier_epochs_count(tmp_path: Path) -> None:
    first = run(tmp_path, epochs=2)
    history = run(tmp_path, resume=True)
    assert history["seconds"][:2].tolist() == first["seconds"].tolist()


def test_double_precision_is_resumed(tmp_path: Path) -> None:
    case = CASE["vae"]
    models = [make(case).double() for _ in range(2)]
    settings: dict[str, Any] = {"progress": False, "device": "cpu"}
    fit(models[0], case.data(0), epochs=2, **settings)
    fit(models[1], case.data(0), epochs=1, out=tmp_path, **settings)
    fit(models[1], case.data(0), epochs=2, out=tmp_path, resume=True, **settings)
    assert equal(weights(models[0]), weights(models[1]))


def test_a_folder_changes_nothing(tmp_path: Path) -> None:
    assert equal(weights(trained(SEMI)), weights(trained(SEMI, out=tmp_path)))
