"""Runs that cannot be gone on with, and why: the folder is then left as it is."""

import sys
from pathlib import Path
from typing import Any

import pytest
from disk_support import no_trainer
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from resume_support import CASE_NAME, SEMI, SETTINGS, data, run
from support import CASE, equal, make, objective_of, weights

from ppl_vae import ELBO, fit
from ppl_vae.data import Dynamic


@pytest.mark.parametrize("kept", [None, 1], ids=["gone", "too-short"])
def test_metrics_that_lack_rows_are_named(kept: int | None, tmp_path: Path) -> None:
    run(tmp_path, epochs=2)
    metrics = tmp_path / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.unlink()
    if kept is not None:
        metrics.write_text("".join(lines[: 1 + kept]))
    with pytest.raises(ValueError, match=rf"metrics.csv .* 2 epochs .* had {kept or 0}"):
        run(tmp_path, resume=True)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "vae"}, "model.class was 'M2' when the run started and is now 'VAE'"),
    "alpha": (
        {"objective": SEMI.objective.__class__("SemiSupervised", {"alpha": 9.0})},
        "objective.alpha was 0.5 when the run started and is now 9.0",
    ),
    "seed": ({"seed": 4}, "seed was 3 when the run started and is now 4"),
    "lr": ({"lr": 0.5}, "lr was 0.01 when the run started and is now 0.5"),
    "batch_size": ({"batch_size": 5}, "batch_size was 4 when the run started and is now 5"),
    "data": ({"data": (Dynamic(0.2 + data()[0].probs / 2), data()[1])}, "data was .* is now"),
    "binarisation": ({"data": (0.1 + 0.8 * SEMI.data(0)[0], SEMI.data(0)[1])}, "data was .*True"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_not_gone_on_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, words = CHANGES[name]
    run(tmp_path, epochs=1)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    if "model" in changes:
        other, arguments, objective = make(CASE["vae"]), CASE["vae"].data(0), ELBO()
    else:
        case = CASE[CASE_NAME]
        other, arguments = make(case), changes.get("data", data())
        part = changes.get("objective", case.objective)
        objective = objective_of(case.__class__("changed", case.model, case.data, part))
    settings = {**SETTINGS, **{k: v for k, v in changes.items() if k in SETTINGS}}
    start = weights(other)
    monkeypatch.setattr(sys.modules["ppl_vae.inference.training.fit"], "Trainer", no_trainer)
    with pytest.raises(ValueError, match=rf"cannot resume .*{words}"):
        fit(other, arguments, objective, epochs=2, out=tmp_path, resume=True, **settings)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert equal(weights(other), start)


def test_another_objective_of_pyro_is_not_gone_on_with(tmp_path: Path) -> None:
    case = CASE["vae"]
    settings: dict[str, Any] = {"epochs": 1, "out": tmp_path, "progress": False}
    fit(make(case), case.data(0), Trace_ELBO(), **settings)
    fit(make(case), case.data(0), Trace_ELBO(), resume=True, **settings)
    for other in (TraceMeanField_ELBO(), Trace_ELBO(num_particles=2), ELBO()):
        with pytest.raises(ValueError, match=r"objective\.\w+ was"):
            fit(make(case), case.data(0), other, resume=True, **settings)


def test_a_run_that_is_longer_already_is_not_cut(tmp_path: Path) -> None:
    run(tmp_path, epochs=3)
    with pytest.raises(ValueError, match=r"epochs should be at least the 3 .* was 2"):
        run(tmp_path, epochs=2, resume=True)
