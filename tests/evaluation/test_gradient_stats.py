"""Bias, variance and signal of gradient estimates, against numpy and against exact gradients."""

from typing import Any

import linear_gaussian as exact
import numpy as np
import pandas as pd
import pytest
import torch
from support import gradients
from torch import Tensor

from ppl_vae.inference import IWAE, DReG, Renyi, gradient_stats
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.models import VAE
from ppl_vae.shared.evaluation.gradients import Moments, statistics


def test_the_columns_by_hand() -> None:
    rng = np.random.default_rng(0)
    estimates = [
        {"a.w": 1000 + rng.normal(size=(2, 3)), "a.b": rng.normal(size=4), "c": rng.normal(size=5)}
        for _ in range(50)
    ]
    truth = {name: rng.normal(size=value.shape) for name, value in estimates[0].items()}
    table = statistics(Moments(estimates), truth)
    assert list(table.columns) == ["parameters", "norm", "variance", "snr", "bias", "chance"]
    for group, names in {"a": ("a.w", "a.b"), "c": ("c",)}.items():
        flat = np.array([np.concatenate([e[n].ravel() for n in names]) for e in estimates])
        mean, variance = flat.mean(0), flat.var(0, ddof=1).sum()
        norm = max(mean @ mean - variance / 50, 0) ** 0.5
        away = mean - np.concatenate([truth[n].ravel() for n in names])
        expected = [flat.shape[1], norm, variance, norm / variance**0.5]
        expected += [(away @ away) ** 0.5, (variance / 50) ** 0.5]
        np.testing.assert_allclose(table.loc[group], expected, rtol=1e-9)


def pair() -> tuple[VAE, Tensor, dict[str, Tensor]]:
    """A pair, data, and the gradients of minus the ELBO per datum."""
    model, x = exact.vae(), exact.data()
    loss = lambda: -exact.bound(model, x).mean()  # noqa: E731
    names = [name for name, _ in model.named_parameters()]
    grads = gradients(loss, model.parameters())[1:]
    return model, x, dict(zip(names, grads, strict=True))


def test_the_elbo_is_unbiased_and_another_bound_is_not() -> None:
    model, x, truth = pair()
    fair = gradient_stats(ELBO(8), model, x, 500, truth=truth)
    assert list(fair.index) == ["encoder", "decoder"]
    assert (fair["bias"] < 2 * fair["chance"]).all()
    other = gradient_stats(Renyi(-2.0, 8), model, x, 500, truth=truth)
    assert (other["bias"] > 5 * other["chance"]).all()
    norms = [
        sum((g**2).sum().item() for name, g in truth.items() if name.startswith(group)) ** 0.5
        for group in fair.index
    ]
    np.testing.assert_allclose(fair["norm"], norms, rtol=0.1)


@pytest.mark.slow
def test_an_objective_as_the_truth() -> None:
    model, x, _ = pair()
    fair = gradient_stats(DReG(3), model, x, 500, truth=IWAE(3))
    assert (fair["bias"] < 2 * fair["chance"]).all()
    other = gradient_stats(DReG(3), model, x, 500, truth=ELBO(3))
    assert other["bias"]["encoder"] > 3 * other["chance"]["encoder"]


@pytest.mark.slow
def test_the_signal_of_the_guide_falls_with_k_and_that_of_dreg_rises() -> None:
    torch.manual_seed(1)
    model, x, _ = pair()
    snr = {
        kind: [gradient_stats(kind(k), model, x, 700)["snr"]["encoder"] for k in (1, 16)]
        for kind in (IWAE, DReG)
    }
    assert snr[IWAE][1] < 0.5 * snr[IWAE][0]
    assert snr[DReG][1] > 1.2 * snr[DReG][0]


def test_nothing_is_changed_and_seeds_tell() -> None:
    model, x, _ = pair()
    before = torch.get_rng_state()
    tables = [gradient_stats(ELBO(), model, x, 3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert (tables[0]["variance"] != tables[2]["variance"]).all()
    assert "bias" not in tables[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"repeats": 1}, "repeats should be a whole number of at least 2, was 1"),
        ({"truth": {"x": np.zeros(3)}}, "truth should have a gradient of every parameter"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], says: str) -> None:
    model, x, _ = pair()
    with pytest.raises(ValueError, match=says):
        gradient_stats(ELBO(), model, x, **{"repeats": 2, **arguments})
    with pytest.raises(ValueError, match=r"x should have shape \(n, 3\)"):
        gradient_stats(ELBO(), model, x[:, :2])
