"""The batches that `fit` makes of labelled and unlabelled data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from semi_supervised_support import SEMI, m2
from support import assert_unbiased, make
from torch import Tensor

from ppl_vae import SemiSupervised, fit


def test_the_batches_of_an_epoch_estimate_the_loss_of_the_data_set() -> None:
    model, x, y = m2()
    whole = SemiSupervised(analytic_kl=True, labelled_per_batch=3).prepare(model, x, y)
    generator = torch.Generator().manual_seed(0)

    def mean_per_datum(objective: SemiSupervised, batches: Any) -> float:
        losses = [objective.loss(model.model, model.guide, x[b], y[b]) / len(b) for b in batches]
        return float(np.mean(losses))

    # Batches of 5 divide the 15 unlabelled data, so each counts the same.
    epochs = [mean_per_datum(whole, whole.batches(5, generator, x, y)) for _ in range(100)]
    everything = [mean_per_datum(whole, [torch.arange(len(y))]) for _ in range(100)]
    difference = torch.tensor(epochs) - torch.tensor(everything)
    assert_unbiased(difference, torch.zeros(()))
    assert difference.std() / 100**0.5 < 0.05


def epochs_of_batches(size: int, per_batch: int, n: int = 3) -> Iterator[list[Tensor]]:
    (x, y), generator = SEMI.data(0), torch.Generator().manual_seed(0)
    for _ in range(n):
        yield list(SemiSupervised(labelled_per_batch=per_batch).batches(size, generator, x, y))


@pytest.mark.parametrize(("size", "per_batch"), [(4, 3), (5, 2), (100, 100), (1, 9)])
def test_batches_hold_each_unlabelled_datum_once_and_the_labelled_in_turn(
    size: int, per_batch: int
) -> None:
    y = torch.as_tensor(SEMI.data(0)[1])
    n_labelled, n_unlabelled = int((y >= 0).sum()), int((y < 0).sum())
    orders = []
    for batches in epochs_of_batches(size, per_batch):
        unlabelled = torch.cat([b[y[b] < 0] for b in batches])
        labelled = torch.cat([b[y[b] >= 0] for b in batches])
        assert sorted(unlabelled.tolist()) == (y < 0).nonzero()[:, 0].tolist()
        assert [int((y[b] < 0).sum()) for b in batches[:-1]] == [size] * (len(batches) - 1)
        assert len(batches) == -(-n_unlabelled // size)
        per = min(per_batch, n_labelled)
        assert {int((y[b] >= 0).sum()) for b in batches} == {per}
        counts = labelled.bincount(minlength=len(y))[y >= 0]
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == per * len(batches)
        orders.append(unlabelled.tolist())
    assert orders[0] != orders[1] != sorted(orders[1])


def test_labelled_data_are_used_in_turn() -> None:
    y = torch.as_tensor(SEMI.data(0)[1])
    (batches,) = epochs_of_batches(size=1, per_batch=3, n=1)
    turns = [tuple(b[y[b] >= 0].tolist()) for b in batches]
    for start in range(0, 15, 3):
        assert sorted(sum(turns[start : start + 3], ())) == (y >= 0).nonzero()[:, 0].tolist()
    assert len(set(turns)) > 5


def test_data_that_are_all_labelled_are_cut_as_usual() -> None:
    (x, _), y = SEMI.data(0), np.arange(24) % 3
    batches = list(SemiSupervised().batches(10, torch.Generator(), x, y))
    assert [len(b) for b in batches] == [10, 10, 4]
    assert sorted(torch.cat(batches).tolist()) == list(range(24))


def test_prepare_counts_the_labels_and_leaves_the_objective_alone() -> None:
    model, objective = make(SEMI), SemiSupervised()
    before = dict(vars(objective))
    prepared = objective.prepare(model, *SEMI.data(0))
    assert prepared.labelled_fraction == 9 / 24
    assert vars(objective) == before
    kept = SemiSupervised(labelled_fraction=0.5).prepare(model, *SEMI.data(0))
    assert kept.labelled_fraction == 0.5
    fit(model, SEMI.data(0), objective, epochs=1, progress=False)
    assert vars(objective) == before
