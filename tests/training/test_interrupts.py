"""Ctrl-C and SIGTERM: the step is finished, and the run goes on later as if nothing had been."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CASE, equal, make, objective_of, start_python, weights

from ppl_vae import fit
from ppl_vae.data import Dynamic
from ppl_vae.inference import ELBO, GECO, Lagging
from ppl_vae.inference.training import step_graph
from ppl_vae.inference.training.trainer import Trainer
from ppl_vae.models import Model
from ppl_vae.shared.training.interrupts import deferred


@pytest.fixture(autouse=True)
def recorded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they were recorded, without machine code, which takes seconds to make."""
    monkeypatch.setattr(
        step_graph, "compile_graph", lambda recorded, inputs: torch.no_grad()(recorded)
    )


RUNS: dict[str, tuple[str, Any]] = {
    "dynamic": ("vae", lambda: ELBO(2)),
    "norm": ("hierarchical-norm", None),
    "labels": ("m2-semi-supervised", None),
    "state": ("vae", lambda: GECO(-99.0, rate=1.0)),
    "turns": ("vae", lambda: Lagging(ELBO(), max_steps=5, window=2, subset=12)),
}


def run(name: str, **settings: Any) -> Model:
    case = CASE[RUNS[name][0]]
    model, data = make(case), case.data(0)
    if name == "dynamic":
        data = (Dynamic(data[0]),)
    objective = objective_of(case) if RUNS[name][1] is None else RUNS[name][1]()
    given: dict[str, Any] = {"epochs": 3, "batch_size": 5, "lr": 1e-2, "device": "cpu"}
    fit(model, data, objective, progress=False, **{**given, **settings})
    return model


def signalled(monkeypatch: pytest.MonkeyPatch, at: int, number: signal.Signals) -> None:
    """From now on, the signal comes while the `at`-th step is under way."""
    steps, inner = [0], Trainer.take_step

    def step(trainer: Trainer, *arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] == at:
            signal.raise_signal(number)
        return inner(trainer, *arguments)

    monkeypatch.setattr(Trainer, "take_step", step)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RUNS)
def test_the_run_goes_on_bit_for_bit(
    name: str, compile: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(name, compile=compile, out=tmp_path / "whole")
    folder = tmp_path / "parts"
    for at in (2, 3, 1):  # in the midst of an epoch, twice, and in one that was begun before
        with pytest.MonkeyPatch.context() as patch:
            signalled(patch, at, signal.SIGTERM)
            with pytest.raises(SystemExit) as error:
                run(name, compile=compile, out=folder, resume=True)
        assert error.value.code == 128 + signal.SIGTERM
        line = capsys.readouterr().err.strip()
        assert line.startswith("stopped in epoch ")
        assert line.endswith(f"resume=True (--resume) goes on from {str(folder)!r}")
    parts = run(name, compile=compile, out=folder, resume=True)
    assert equal(weights(whole), weights(parts))
    assert rows(tmp_path / "whole") == rows(folder)


def rows(folder: Path) -> list[str]:
    """The lines of the metrics, without the seconds, which come last."""
    lines = (folder / "metrics.csv").read_text().splitlines()
    return [line.rsplit(",", 1)[0] for line in lines]


def test_at_the_end_of_an_epoch_and_of_the_run(tmp_path: Path) -> None:
    whole = run("dynamic")
    with pytest.MonkeyPatch.context() as patch:
        signalled(patch, 5, signal.SIGTERM)  # the last of the first epoch
        with pytest.raises(SystemExit):
            run("dynamic", out=tmp_path)
    assert len(rows(tmp_path)) == 2
    with pytest.MonkeyPatch.context() as patch:
        signalled(patch, 10, signal.SIGTERM)  # the last of all, after which nothing is left to stop
        assert equal(weights(run("dynamic", out=tmp_path, resume=True)), weights(whole))


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    inner = Trainer.take_step

    def step(trainer: Trainer, *arguments: Any) -> Any:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.05)  # two that Python handles late are one
        return inner(trainer, *arguments)

    # A process that was started in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "take_step", step)
            with pytest.raises(KeyboardInterrupt):
                run("dynamic", out=tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_who_types_gets_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    signalled(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped in epoch 1, batch 2; nothing was kept"):
        run("dynamic")


def test_a_thread_that_is_not_the_main_one_leaves_signals_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with deferred() as interrupt:
            found.append((interrupt.asked, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


PROGRAM = """
import numpy as np, signal, torch
from ppl_vae import VAE, fit

torch.set_num_threads(1)
x = (np.random.default_rng(0).random((64, 6)) < 0.5).astype("float32")
print("begun", flush=True)
fit(VAE(6, 2, (3,)), x, epochs=10**6, batch_size=8, out={out!r}, progress=False)
"""


@pytest.mark.slow
def test_a_program_ends_with_a_line_and_no_traceback(tmp_path: Path) -> None:
    process = start_python(PROGRAM.format(out=str(tmp_path)))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    while not (tmp_path / "checkpoint.safetensors").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert len(errors.strip().splitlines()) == 1
    assert errors.startswith("stopped in epoch ")
