"""Baseline, p0(x | c) without latent variables, against its formulas written out in NumPy."""

import numpy as np
import pytest
import torch
from support import CASE, assert_unbiased, make
from torch import Tensor

from ppl_vae import ELBO, fit, log_likelihood, mean_loss
from ppl_vae.inference.batches import Batches
from ppl_vae.models import CVAE, Baseline, BernoulliNet

N, X_DIM, C_DIM = 40, 4, 3


def linear() -> Baseline:
    """The logits are linear in c."""
    net = BernoulliNet(C_DIM, X_DIM, ())
    return Baseline(X_DIM, C_DIM, baseline=net).double()


def data(by_class: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    c = rng.integers(C_DIM, size=N) if by_class else rng.normal(size=(N, C_DIM))
    x = (rng.random((N, X_DIM)) < 0.4).astype(float)
    return c, x, rng.random((N, X_DIM)) < 0.6


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.as_tensor(array) for array in arrays)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("by_class", [False, True], ids=["vectors", "classes"])
def test_loss_and_gradient_are_those_of_the_formula(by_class: bool, masked: bool) -> None:
    model, (c, x, mask) = linear(), data(by_class)
    arrays, kept = ((c, x, mask), mask) if masked else ((c, x), np.ones_like(mask))
    weight, bias = (p.detach().numpy() for p in model.parameters())
    vectors = np.eye(C_DIM)[c] if by_class else c
    p = 1 / (1 + np.exp(-(vectors @ weight.T + bias)))
    log_p = (kept * np.where(x == 1, np.log(p), np.log(1 - p))).sum(-1)

    loss = ELBO().differentiable_loss(model.model, model.guide, *tensors(*arrays))
    loss.backward()
    assert loss.item() == pytest.approx(-log_p.sum(), abs=1e-10)
    error = kept * (p - x)
    np.testing.assert_allclose(model.baseline.logits.weight.grad, error.T @ vectors, atol=1e-10)
    np.testing.assert_allclose(model.baseline.logits.bias.grad, error.sum(0), atol=1e-10)
    # There is nothing to draw, so every estimate is the exact value.
    assert mean_loss(model, arrays) == pytest.approx(-log_p.mean(), abs=1e-10)
    np.testing.assert_allclose(log_likelihood(model, arrays, k=7).values, log_p, atol=1e-10)


def test_what_does_not_count_may_be_anything() -> None:
    model, (c, x, mask) = linear(), data(by_class=False)
    other = np.where(mask, x, 1 - x)
    assert (other != x).any()
    ours, same = (log_likelihood(model, (c, value, mask), k=1).values for value in (x, other))
    np.testing.assert_allclose(ours, same, rtol=1e-12)


def test_training_ends_at_the_frequencies_of_what_counts() -> None:
    """The maximum of the likelihood of a table, with a row for each class."""
    model, (c, x, mask) = linear(), data(by_class=True)
    fit(model, (c, x, mask), epochs=400, batch_size=N, lr=0.1, device="cpu", progress=False)
    expected = [(x * mask)[c == label].sum(0) / mask[c == label].sum(0) for label in range(C_DIM)]
    found = model.baseline(torch.eye(C_DIM, dtype=torch.double)).mean.detach()
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_its_network_is_a_cvaes_first_guess() -> None:
    case = CASE["baseline-masked"]
    first, arrays = make(case), case.data(0)
    fit(first, arrays, epochs=2, progress=False)
    loss = mean_loss(first, arrays)
    first.baseline.requires_grad_(False)
    cvae = CVAE(first.x_dim, first.c_dim, 2, (5,), baseline=first.baseline)
    fit(cvae, arrays, epochs=2, progress=False)
    assert cvae.baseline is first.baseline
    assert mean_loss(first, arrays) == loss
    assert not any(p.requires_grad for p in first.parameters())


def test_draws_for_given_conditions() -> None:
    model, n = linear(), 4000
    c = np.full(n, 2)
    expected = model.baseline(torch.eye(C_DIM, dtype=torch.double)[2]).mean.detach()
    drawn = model.sample(n, c)
    assert set(drawn) == {"x"}
    assert_unbiased(drawn["x"].double(), expected)


def test_masks_stay_what_they_are_in_memory() -> None:
    c, x, mask = data(by_class=True)
    batches = Batches((c, x, mask), torch.device("cpu"), torch.float32)
    kinds = [part.dtype for part in batches[torch.arange(3)]]
    assert kinds == [torch.int64, torch.float32, torch.bool]


C, X = torch.zeros(5, C_DIM), torch.zeros(5, X_DIM)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ((C, X + 2), r"x should lie in \[0, 1\], lay in \[2, 2\]"),
        ((C, X[:, 1:]), r"x should have shape \(n, 4\), had \(5, 3\)"),
        ((C[:, 1:], X), r"c should have shape \(n, 3\), had \(5, 2\)"),
        ((torch.arange(5), X), "c should be classes 0 to 2, held 0 to 4"),
        ((C, X, X), "mask should be of a boolean type, was float32"),
        ((X,), r"data should be \(c, x\) or \(c, x, mask\), had 1"),
    ],
)
def test_wrong_data_are_named(arrays: tuple[Tensor, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit(linear(), arrays, epochs=1, progress=False)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="c_dim should be a whole number of at least 1, was 0"):
        Baseline(X_DIM, 0)
