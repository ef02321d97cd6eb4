"""`compare`: the table by hand, equal starts, the pictures, runs that are kept."""

import copy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from support import equal, weights

from ppl_vae.data import digits
from ppl_vae.inference import (
    ELBO,
    IWAE,
    VIMCO,
    ExponentialDecay,
    Relaxed,
    compare,
    fit,
    gradient_stats,
    log_likelihood,
    mean_loss,
    posterior_collapse,
)
from ppl_vae.inference.objectives.parts.baselines import BaselineNet
from ppl_vae.models import SBN, VAE, Model

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 50, "k": 20, "repeats": 3, "progress": False}
IMAGES = digits("threshold")
TRAIN, TEST = IMAGES.train.x[:200], IMAGES.test.x[:60]


@pytest.fixture(autouse=True)
def _closed_figures() -> Any:
    yield
    plt.close("all")


def pair() -> Model:
    torch.manual_seed(0)
    return VAE(64, 3, (8,))


def test_the_table_by_hand(tmp_path: Path) -> None:
    model = pair()
    before = weights(model)
    table = compare(model, [ELBO(), IWAE(5)], TRAIN, TEST, out=tmp_path, **QUICK)
    assert equal(before, weights(model))
    assert list(table.index) == ["ELBO-1", "IWAE-5"]
    for name, objective in {"ELBO-1": ELBO(), "IWAE-5": IWAE(5)}.items():
        own = fit(pair(), TRAIN, objective, epochs=2, batch_size=50, progress=False).model
        assert equal(weights(own), weights(VAE.load(tmp_path / f"{name}.safetensors")))
        log_p = log_likelihood(own, TEST, 20)
        snr = gradient_stats(objective, own, TEST[:50], 3)["snr"]
        expected = {
            "bound": -mean_loss(own, TEST, objective),
            "elbo": -mean_loss(own, TEST),
            "log_likelihood": log_p.mean,
            "standard_error": log_p.standard_error,
            "kl": posterior_collapse(own, TEST).sites["z"].mean,
            "active_units": posterior_collapse(own, TEST).active.total,
            "snr_encoder": snr["encoder"],
            "snr_decoder": snr["decoder"],
        }
        for column, value in expected.items():
            assert table.loc[name, column] == pytest.approx(value, rel=1e-6), column
        assert table.loc[name, "seconds_per_epoch"] > 0
    assert len(table.columns) == len(expected) + 1


def test_pictures() -> None:
    compare(pair(), {"a": ELBO(), "b": IWAE(5)}, TRAIN, TEST, **QUICK)
    axes = plt.gcf().axes
    assert len(axes) == 2
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in axes[1].get_xticklabels()] == ["a", "b"]
    given = plt.subplots(1, 2)[1]
    compare(pair(), [ELBO()], TRAIN, TEST, axes=given, **QUICK)
    assert len(plt.get_fignums()) == 2
    assert given[0].lines
    assert given[1].containers


def test_runs_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    settings = {**QUICK, "out": tmp_path}
    first = compare(pair(), [IWAE(2)], TRAIN, TEST, **settings)
    again = compare(pair(), [IWAE(2)], TRAIN, TEST, resume=True, **settings)
    assert first.equals(again)  # the seconds too: nothing was trained


def test_discrete_latents() -> None:
    torch.manual_seed(0)
    table = compare(SBN(64, (4, 3)), [ELBO(2), VIMCO(2)], TRAIN, TEST, **QUICK)
    assert {"snr_encoders", "snr_prior", "snr_conditionals", "snr_decoder"} <= set(table.columns)
    assert np.isfinite(table).all(axis=None)


def test_gradients_are_those_of_the_objective_at_the_end() -> None:
    torch.manual_seed(0)
    start = SBN(64, (4,))
    given = ELBO(2, baseline=BaselineNet(64, (3,)))
    before = weights(given.networks()["baseline"])
    objectives = {"relaxed": Relaxed(ExponentialDecay(1.0, 0.1, 2)), "baseline": given}
    table = compare(start, objectives, TRAIN, TEST, **QUICK)
    assert equal(before, weights(given.networks()["baseline"]))
    for name, objective in {"relaxed": Relaxed(0.1), "baseline": copy.deepcopy(given)}.items():
        rest = {"epochs": 2, "batch_size": 50, "progress": False}
        trained = objectives["relaxed"] if name == "relaxed" else objective
        own = fit(copy.deepcopy(start), TRAIN, trained, **rest)
        if name == "baseline":
            objective = objective.with_state({"baseline": torch.tensor(own["baseline"][-1])})
        snr = gradient_stats(objective, own.model, TEST[:50], 3)["snr"]
        assert table.loc[name, "snr_encoders"] == pytest.approx(snr["encoders"], rel=1e-6)


def test_wrong_arguments_are_named() -> None:
    for objectives, says in (
        ([], "objectives should be at least one, was none"),
        ([ELBO(), ELBO()], r"named by a mapping, had the names \['ELBO-1', 'ELBO-1'\]"),
    ):
        with pytest.raises(ValueError, match=says):
            compare(pair(), objectives, TRAIN, TEST, **QUICK)
    with pytest.raises(ValueError, match="batch_size should be a whole number of at least 1"):
        compare(pair(), [ELBO()], TRAIN, TEST, **{**QUICK, "batch_size": 0})
