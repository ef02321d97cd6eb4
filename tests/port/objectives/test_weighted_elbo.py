"""Warm-up and free bits in the port's compiled epochs; values and gradients are compared with
Pyro's in test_numpyro_objectives.py."""

import numpy as np
import pytest
from cases import CASES, VAE, Part, pixels
from port_support import jax, key, make_pair

from ppl_vae.numpyro.inference import ELBO, Warmup, fit, mean_loss

QUIET = {"progress": False, "device": "cpu", "batch_size": 10, "lr": 1e-2}
_, PORT = make_pair(Part("VAE", {**VAE, "hidden": (3,)}))


def same(a, b):
    return all(np.array_equal(v, b.state_dict()[name]) for name, v in a.state_dict().items())


def test_the_schedule_is_the_same_when_it_is_traced():
    for warmup in (Warmup(4), Warmup(5, start=0.3), Warmup(1)):
        traced = jax.jit(warmup)
        for epoch in range(1, 8):
            np.testing.assert_allclose(traced(epoch), warmup(epoch), rtol=1e-6)


@pytest.mark.slow
def test_fit_advances_the_warm_up_without_compiling_again(monkeypatch):
    runs = [
        fit(PORT, *pixels(0), objective, epochs=1, **QUIET)
        for objective in (ELBO(beta=Warmup(2)), ELBO(beta=0.5), ELBO())
    ]
    np.testing.assert_allclose(runs[0]["loss"], runs[1]["loss"], rtol=1e-6)
    assert abs(runs[0]["loss"][0] - runs[2]["loss"][0]) > 1e-3
    for name, value in runs[0].model.state_dict().items():
        np.testing.assert_allclose(value, runs[1].model.state_dict()[name], atol=1e-6)
    calls, loss = [], ELBO.differentiable_loss

    def counted(self, *data, **settings):
        calls.append(self)
        return loss(self, *data, **settings)

    monkeypatch.setattr(ELBO, "differentiable_loss", counted)
    fit(PORT, *pixels(0), ELBO(beta=Warmup(4)), epochs=1, **QUIET)
    once = len(calls)
    fit(PORT, *pixels(0), ELBO(beta=Warmup(4)), epochs=6, **QUIET)
    assert len(calls) == 2 * once


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    objective = ELBO(beta=Warmup(3), free_bits=0.05)
    whole = fit(PORT, *pixels(0), objective, epochs=4, **QUIET)
    fit(PORT, *pixels(0), objective, epochs=2, out=tmp_path, **QUIET)
    resumed = fit(PORT, *pixels(0), objective, epochs=4, out=tmp_path, resume=True, **QUIET)
    assert same(whole.model, resumed.model)
    assert np.array_equal(whole["loss"], resumed["loss"])
    other = ELBO(beta=Warmup(4), free_bits=0.05)
    with pytest.raises(ValueError, match=r"cannot resume .*objective"):
        fit(PORT, *pixels(0), other, epochs=4, out=tmp_path, resume=True, **QUIET)


def test_what_is_measured_has_no_weights():
    plain = mean_loss(PORT, pixels(1), ELBO(analytic_kl=True))
    for weights in ({"beta": Warmup(9)}, {"beta": 4.0}, {"free_bits": 3.0}):
        assert mean_loss(PORT, pixels(1), ELBO(analytic_kl=True, **weights)) == plain


@pytest.mark.slow
def test_what_cannot_be_weighted_is_refused():
    for arguments, says in (({"beta": -1.0}, "beta should be"), ({"free_bits": -1}, "free_bits")):
        with pytest.raises(ValueError, match=says):
            ELBO(**arguments)
    with pytest.raises(ValueError, match=r"beta should be a number .* was a Warmup"):
        ELBO(beta=Warmup(2)).loss(key(), {}, PORT.model, PORT.guide, *pixels(0))
    _, m2 = make_pair(next(case for case in CASES if case.name == "m2-unlabelled").model)
    with pytest.raises(ValueError, match=r"free_bits should be 0 .* not reparametrised.* 'y'"):
        ELBO(free_bits=1.0).loss(key(), {}, m2.model, m2.guide, *pixels(0))
