"""Imputation where p(x_missing | x_observed) is known."""

import linear_gaussian as exact
import numpy as np
import pytest
import torch

from ppl_vae.inference import impute
from ppl_vae.models import VAE


def test_with_the_exact_posterior_it_draws_from_the_conditional() -> None:
    """Many chains with one datum: mean and covariance of a normal density's conditional."""
    model = exact.conjugate(exact=True)
    w, b, c = model.decoder.loc.weight, model.decoder.loc.bias, model.decoder.log_var.bias
    covariance = (w @ w.T + torch.diag(c.exp())).detach()
    observed = torch.tensor([True, False, False])
    gain = covariance[1:, :1] / covariance[0, 0]
    datum = torch.tensor([1.7, 50.0, -50.0], dtype=torch.double)  # a start far away
    mean = b.detach()[1:] + gain[:, 0] * (datum[0] - b[0].detach())
    spread = covariance[1:, 1:] - gain @ covariance[:1, 1:]

    n = 20_000
    x = datum.expand(n, 3)
    drawn = impute(model, x, observed.expand(n, 3).numpy(), steps=40)
    assert torch.equal(drawn[:, 0], x[:, 0])
    free = drawn[:, 1:]
    torch.testing.assert_close(free.mean(0), mean, atol=4 * (spread.max() / n).sqrt(), rtol=0)
    tolerance = 6 * spread.max() / n**0.5
    torch.testing.assert_close(free.T.cov(), spread, atol=tolerance.item(), rtol=0)


def test_a_chain_goes_on_from_its_result_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    model = VAE(4, 2, (5,))
    x, observed = np.zeros((3, 4), np.float32), np.zeros((3, 4), bool)
    before = torch.get_rng_state()
    one = impute(model, x, observed, steps=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, impute(model, x, observed, steps=1))
    assert not torch.equal(one, impute(model, x, observed, steps=1, seed=1))
    assert model.training
    assert torch.equal(impute(model, one, ~observed), one)


def test_wrong_arguments() -> None:
    model, x = VAE(4, 2, (5,)), np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"observed should have shape \(n, 4\), had \(3, 5\)"):
        impute(model, x, np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="observed should have 3 rows, those of x, had 2"):
        impute(model, x, np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="observed should be of a boolean type"):
        impute(model, x, np.ones((3, 4)))
    with pytest.raises(ValueError, match="steps should be a whole number of at least 1, was 0"):
        impute(model, x, np.ones((3, 4), bool), steps=0)
    with pytest.raises(ValueError, match=r"x should have shape \(n, 4\)"):
        impute(model, np.zeros((3, 5), np.float32), np.ones((3, 5), bool))
