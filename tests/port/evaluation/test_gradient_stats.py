"""The port's gradient statistics, against exact gradients."""

import linear_gaussian as exact
import numpy as np
import pytest
from port_support import key
from support import gradients

from ppl_vae.numpyro.inference import ELBO, IWAE, DReG, Renyi, gradient_stats
from ppl_vae.numpyro.models import VAE, DiagNormalNet


def pair():
    """A pair, data, and the gradients of minus the ELBO per datum."""
    theirs, x = exact.vae(), exact.data()
    decoder = DiagNormalNet(exact.Z_DIM, exact.X_DIM, (), key=key())
    port = VAE(exact.X_DIM, exact.Z_DIM, (), decoder=decoder, key=key())
    grads = gradients(lambda: -exact.bound(theirs, x).mean(), theirs.parameters())[1:]
    names = [name for name, _ in theirs.named_parameters()]
    weights = theirs.float().state_dict()
    return port.with_weights(weights), x.float().numpy(), dict(zip(names, grads, strict=True))


@pytest.mark.slow
def test_the_elbo_is_unbiased_and_another_bound_is_not():
    model, x, truth = pair()
    fair = gradient_stats(ELBO(8), model, x, 500, truth=truth)
    assert sorted(fair.index) == ["decoder", "encoder"]
    assert (fair["bias"] < 2 * fair["chance"]).all()
    other = gradient_stats(Renyi(-2.0, 8), model, x, 500, truth=truth)
    assert (other["bias"] > 5 * other["chance"]).all()
    for group in fair.index:
        parts = [g for name, g in truth.items() if name.startswith(group)]
        norm = sum((g**2).sum().item() for g in parts) ** 0.5
        assert fair["norm"][group] == pytest.approx(norm, rel=0.1)


@pytest.mark.slow
def test_an_objective_as_the_truth():
    model, x, _ = pair()
    fair = gradient_stats(DReG(3), model, x, 500, truth=IWAE(3))
    assert (fair["bias"] < 2 * fair["chance"]).all()
    other = gradient_stats(DReG(3), model, x, 500, truth=ELBO(3))
    assert other["bias"]["encoder"] > 3 * other["chance"]["encoder"]


def test_seeds_tell_and_wrong_arguments_are_named():
    model, x, _ = pair()
    tables = [gradient_stats(ELBO(), model, x, 3, seed=seed) for seed in (0, 0, 1)]
    assert tables[0].equals(tables[1])
    assert (tables[0]["variance"] != tables[2]["variance"]).all()
    with pytest.raises(ValueError, match="repeats should be a whole number of at least 2, was 1"):
        gradient_stats(ELBO(), model, x, 1)
    with pytest.raises(ValueError, match="truth should have a gradient of every parameter"):
        gradient_stats(ELBO(), model, x, 2, truth={"x": np.zeros(3)})
