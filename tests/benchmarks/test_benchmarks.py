"""The comparisons of speed: times, ratios and peaks are what they say they are."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from support import run_python
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # where scripts find others

import contenders
import fit_epoch
import growth
import processes
import speed
import step_memory
import steps
from processes import Found
from speed_cases import (
    CASES,
    COMPILED,
    COMPILED_KEPT,
    EAGER,
    NUMPYRO,
    PIXYZ,
    PYRO,
    PYTHAE,
)


@pytest.mark.parametrize("contender", [PYTHAE, PIXYZ, NUMPYRO])
def test_what_is_not_installed_is_left_out(
    contender: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = {PYTHAE: "pythae", PIXYZ: "pixyz", NUMPYRO: "numpyro"}[contender]
    for name in (package, f"{package}.models", f"{package}.distributions", f"{package}.infer"):
        monkeypatch.setitem(sys.modules, name, None)
    speed.run("vae-64", contender, 0.1, "cpu")
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {processes.LEFT_OUT}
    assert said[processes.LEFT_OUT].startswith(package)
    assert said[processes.LEFT_OUT].endswith("is not installed")


SCRIPT = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
log = pathlib.Path(flags["--log"])
log.write_text((log.read_text() if log.exists() else "") + flags["--contender"])
said = {"a": len(log.read_text()) ** 2, "b": {"time": 3.0}, "c": {"left out": "no c"}}
print("something else")
print(json.dumps(said[flags["--contender"]]))
sys.exit(flags["--contender"] == "d")
"""


def test_contenders_run_in_turn(tmp_path: Path) -> None:
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT)
    found = processes.in_turn(str(script), "abc", 3, {"log": log})
    assert log.read_text() == "abcabab"  # what cannot run is not asked again
    assert found.values == {"a": [1, 16, 36], "b": [{"time": 3.0}] * 3}
    assert found.left_out == {"c": "no c"}
    assert found.median("a") == 16
    assert found.median("b", "time") == 3.0
    with pytest.raises(RuntimeError, match="KeyError: 'd'"):
        processes.in_turn(str(script), "d", 1, {"log": log})


def test_a_table_of_steps() -> None:
    """Ratios are those of medians, ours to each, and the bars are of these."""
    values = {
        contenders.OURS: [0.7, 0.8, 9.0],
        COMPILED: [1.0, 1.0, 1.0],
        COMPILED_KEPT: [0.1, 0.99, 2.0],
        PYRO: [2.0, 2.0, 8.0],
    }
    names = contenders.contenders(CASES["vae-64"], "cpu")
    rest = {name: "it is not here" for name in names if name not in values}
    lines = steps.table("vae-64", Found(values, rest), "cpu").splitlines()
    rows = {name: line for name in names for line in lines if line.startswith(f"  {name}  ")}
    assert "1.000      0.800   bar 0.80: reached" in rows[COMPILED]
    assert "0.990      0.808   bar 0.80: not reached" in rows[COMPILED_KEPT]
    assert "2.000      0.400   bar 0.35: not reached   (2.000 2.000 8.000)" in rows[PYRO]
    assert "bar" not in rows[contenders.OURS]
    assert rows[EAGER].endswith("left out: it is not here")
    assert "only the one that says so" in lines[-1]


def test_every_bar_is_of_a_contender() -> None:
    for case in CASES.values():
        assert set(case.bars) <= set(contenders.contenders(case, "cpu"))
        assert set(case.gpu_bars) <= set(contenders.contenders(case, "cuda"))
        for device in ("cpu", "cuda"):
            assert set(contenders.contenders(case, device)) <= set(contenders.CONTENDERS)


class Clock:
    """In the place of `time`: a step takes as long as it says."""

    def __init__(self) -> None:
        self.now, self.steps = 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def step(self) -> None:
        self.steps += 1
        self.now += 100.0 if self.steps <= 5 else self.steps / 1e3


def test_the_time_of_a_step_is_the_median_without_warming_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    assert steps.milliseconds(clock.step, 0.1, "cpu") == pytest.approx(10.5)  # of 6, ..., 15
    assert clock.steps == 15


@pytest.mark.parametrize("contender", ["eager", "eager, with out"])
def test_an_epoch_of_fit(contender: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_epoch, "N", 300)
    monkeypatch.setitem(fit_epoch.CASES, "fit-200", 3)
    pauses = []

    class Pause(fit_epoch.Pause):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            pauses.append(self)
            inner, self.taken = self.step, 0

            def step(*batch: Tensor) -> Tensor:
                self.taken += 1
                return inner(*batch)

            self.step = step

    monkeypatch.setattr(fit_epoch, "Pause", Pause)
    value = fit_epoch.measure("fit-200", contender, 0.0, "cpu")
    (pause,) = pauses
    assert pause.taken == 3 * 3  # three epochs of as many steps as there are batches
    assert len(pause.before) == len(pause.seconds) == 2
    assert value == {
        "fit": statistics.median(pause.before),
        "steps": statistics.median(pause.seconds),
    }
    line = fit_epoch.table("fit-200", Found({contender: [{"fit": 1.08, "steps": 1.0}]}), "cpu")
    assert f"fit, {contender}" in line
    assert "1080.0      1.080   bar 1.08: reached" in line


PEAK = """
import json, sys

sys.path.insert(0, {benchmarks!r})
import numpy as np
import step_memory
import torch

held = torch.nn.Parameter(torch.ones(8 * 2**20))  # 32 MB
before = np.ones(20 * 2**20)
del before

def step():
    held.grad = None
    held.grad = torch.ones_like(held)
    np.ones(8 * 2**20)  # 64 MB

step()
step_memory.forget_gradients()
print(json.dumps(step_memory.on_a_cpu(step)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not step_memory.RESET.exists(), reason="Linux alone has this file")
def test_peak_memory_is_that_of_a_step() -> None:
    """What is held before a step, and what was freed before, does not count; its gradients do.

    In a process of its own, as contenders are: others hand out again what their tests have freed.
    """
    value = json.loads(run_python(PEAK.format(benchmarks=str(Path(step_memory.__file__).parent))))
    assert value["step"] == pytest.approx(32 + 64, abs=4)
    assert value["all"] > 32 + 32 + 64


def test_growth_is_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        name: Found({c: [float(i), 5.0 * i, 2.0 * i] for c in growth.contenders_of(name, "cpu")})
        for i, name in enumerate(growth.CASES, start=1)
    }
    for constant, path in (("RESULTS", tmp_path / "a.json"), ("PICTURE", tmp_path / "a.png")):
        monkeypatch.setattr(growth, constant, path)
    growth.write(found, "cpu")
    assert growth.PICTURE.read_bytes().startswith(b"\x89PNG")
    kept = json.loads(growth.RESULTS.read_text())["ms"]
    assert list(kept) == ["batch", "K", "width", "depth"]
    assert kept["batch"][COMPILED] == {"16": 2.0, "64": 4.0, "256": 6.0, "1024": 8.0}
    figure = growth.draw(json.loads(growth.RESULTS.read_text()))
    for ax in figure.axes:
        assert (ax.get_xscale(), ax.get_yscale(), len(ax.lines)) == ("log", "log", 3)
    assert list(figure.axes[1].lines[0].get_ydata()) == [10.0, 12.0, 14.0, 16.0]
    plt.close("all")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    with pytest.raises(SystemExit, match="torch sees no CUDA device here, so nothing was measured"):
        speed.main(device="cuda")


def test_unknown_cases_are_refused() -> None:
    with pytest.raises(SystemExit, match=r"cases should be of vae-64, .*, was 'vae-1'"):
        speed.part_of("vae-1")
