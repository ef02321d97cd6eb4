"""Training: what it returns and writes, and what it leaves alone."""

import copy
import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from fit_support import M2_CASE, SEMI, VAE_CASE, X, run
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from support import CASE, equal, make, objective_of, tensors, trained, unchanged, weights

from ppl_vae import ELBO, VAE, Model
from ppl_vae.data import Dynamic
from ppl_vae.models import BernoulliNet


def test_the_loss_is_the_mean_of_the_batches_per_datum() -> None:
    model = make(VAE_CASE)
    history = run(copy.deepcopy(model), epochs=1, lr=1e-30, seed=3)
    pyro.set_rng_seed(3)
    order, losses = torch.Generator().manual_seed(3), []
    for index in torch.randperm(len(X), generator=order).split(10):
        x = torch.as_tensor(X)[index]
        losses.append(ELBO().loss(model.model, model.guide, x) / len(x))
    assert history["loss"][0] == pytest.approx(np.mean(losses), rel=1e-5)
    assert history["epoch"].tolist() == [1.0]
    assert history.seconds == history["seconds"].sum() > 0


def test_it_is_adam_written_out() -> None:
    model = make(VAE_CASE)
    by_hand = copy.deepcopy(model)
    run(model, epochs=3, batch_size=24)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    pyro.set_rng_seed(0)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.as_tensor(X)[torch.randperm(24, generator=order)]
        optimizer.zero_grad()
        (ELBO().differentiable_loss(by_hand.model, by_hand.guide, x) / 24).backward()
        optimizer.step()
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_metrics_are_written_as_they_are_returned(tmp_path: Path) -> None:
    seen: list[Model] = []

    def validation(model: Model) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(model)
        return {"error": 0.1 * len(seen), "other": len(seen)}

    model = make(VAE_CASE)
    history = run(model, epochs=3, out=tmp_path / "a" / "b", validation=validation)
    assert seen == [model] * 3
    assert model.training
    assert history.out == tmp_path / "a" / "b"
    with (tmp_path / "a" / "b" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "error", "other", "seconds"]
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history.rows
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert {file.name for file in history.out.iterdir()} == {
        "metrics.csv",
        "checkpoint.safetensors",
        "checkpoint.previous.safetensors",
        ".lock",
    }


@pytest.mark.parametrize("case", [VAE_CASE, CASE["m2-labelled"], SEMI], ids=lambda c: c.name)
def test_validation_data_give_the_loss_per_datum_of_these(case: Any) -> None:
    # Not all of them, so that the share of labels is another one than in training.
    held_out = tuple(part[:12] for part in case.data(1))
    model, objective = make(case), objective_of(case)
    history = run(model, case.data(0), objective, epochs=1, validation=held_out)
    pyro.set_rng_seed(0)
    loss = objective.loss(model.model, model.guide, *tensors(held_out)) / len(held_out[0])
    assert history["validation_loss"][0] == pytest.approx(loss, rel=1e-6)


def test_validation_costs_no_random_numbers() -> None:
    def greedy(model: Model) -> dict[str, float]:
        np.random.rand(3)  # noqa: NPY002
        random.random()
        return {"n": float(model.sample(10)["z"].mean())}

    plain = trained(SEMI, epochs=3)
    for validation in (greedy, SEMI.data(1)):
        assert equal(weights(trained(SEMI, epochs=3, validation=validation)), weights(plain))


def test_the_callers_random_states_are_as_they_were() -> None:
    model = make(VAE_CASE)
    pyro.set_rng_seed(7)
    expected = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    pyro.set_rng_seed(7)
    run(model, validation=X)
    with pytest.raises(ZeroDivisionError):
        run(model, validation=lambda model: {"error": 1 / 0})
    found = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    assert expected[0].equal(found[0])
    assert (expected[1] == found[1]).all()
    assert expected[2] == found[2]


def test_the_callers_data_are_as_they_were() -> None:
    data = SEMI.data(0)
    trained(SEMI, data=data)
    assert all((a == b).all() for a, b in zip(data, SEMI.data(0), strict=True))


def test_frozen_parameters_stay() -> None:
    model = make(VAE_CASE)
    model.decoder.requires_grad_(False)
    before = weights(model)
    run(model)
    assert unchanged(weights(model), before) == [n for n in before if n.startswith("decoder.")]


@pytest.mark.parametrize(
    ("case", "objective"),
    [
        (VAE_CASE, Trace_ELBO()),
        (VAE_CASE, TraceMeanField_ELBO()),
        (M2_CASE, TraceEnum_ELBO(max_plate_nesting=1)),
    ],
    ids=["Trace", "TraceMeanField", "TraceEnum"],
)
def test_the_objectives_of_pyro_train_as_ours_do(case: Any, objective: Any) -> None:
    ours, theirs = make(case), make(case)
    closed = isinstance(objective, TraceMeanField_ELBO)
    histories = [
        run(ours, case.data(0), ELBO(analytic_kl=closed), validation=case.data(1)),
        run(theirs, case.data(0), objective, validation=case.data(1)),
    ]
    for column in ("loss", "validation_loss"):
        np.testing.assert_allclose(histories[0][column], histories[1][column], rtol=1e-4)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_double_precision_is_kept() -> None:
    model = make(SEMI).double()
    run(model, SEMI.data(0), objective_of(SEMI), validation=SEMI.data(0))
    assert {p.dtype for p in model.parameters()} == {torch.double}


def test_a_single_array_a_tensor_and_a_list_are_the_same_data() -> None:
    fitted = []
    for data in (X, (X,), [X], torch.as_tensor(X), X.astype(np.float64)):
        model = make(VAE_CASE)
        run(model, data)
        fitted.append(weights(model))
    assert all(equal(fitted[0], other) for other in fitted[1:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_as_on_the_cpu() -> None:
    history = run(
        make(SEMI), SEMI.data(0), objective_of(SEMI), device="cuda", validation=SEMI.data(1)
    )
    assert np.isfinite(history["loss"]).all()
    model = VAE(6, 2, (3,), decoder=BernoulliNet(2, 6, (3,)))
    run(model, device="auto")
    assert model.device.type == "cuda"
    assert model.reconstruct(X).device.type == "cuda"


def test_dynamic_pixels_are_bits_drawn_anew_in_every_batch() -> None:
    seen, grey = [], np.full((24, 6), 0.3, np.float32)

    class Watched(VAE):
        def model(self, x: torch.Tensor) -> None:
            assert self.training
            seen.append(x)
            super().model(x)

    model = Watched(6, 2, (3,)).eval()
    run(model, Dynamic(grey), epochs=20, batch_size=24)
    epochs = torch.stack(seen)
    assert set(epochs.unique().tolist()) == {0.0, 1.0}
    assert abs(epochs.mean() - 0.3) < 0.03
    assert not epochs[-1].equal(epochs[-2])
