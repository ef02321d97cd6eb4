"""The port's `compare`: the table by hand, equal starts, runs that are kept."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from port_support import key

from ppl_vae.data import digits
from ppl_vae.numpyro.inference import (
    ELBO,
    GECO,
    IWAE,
    BaselineNet,
    Warmup,
    compare,
    fit,
    gradient_stats,
    log_likelihood,
    mean_loss,
)
from ppl_vae.numpyro.models import SBN, VAE
from ppl_vae.shared.io.safetensors_file import read

QUICK = {"epochs": 2, "batch_size": 50, "k": 20, "repeats": 3, "progress": False}
IMAGES = digits("threshold")
TRAIN, TEST = IMAGES.train.x[:200], IMAGES.test.x[:60]


@pytest.mark.slow
def test_the_table_by_hand(tmp_path):
    model = VAE(64, 3, (8,), key=key())
    axes = plt.subplots(1, 2)[1]
    settings = {**QUICK, "out": tmp_path, "axes": axes}
    table = compare(model, [ELBO(), IWAE(5)], TRAIN, TEST, **settings)
    assert list(table.index) == ["ELBO-1", "IWAE-5"]
    for name, objective in {"ELBO-1": ELBO(), "IWAE-5": IWAE(5)}.items():
        own = fit(model, TRAIN, objective, epochs=2, batch_size=50, progress=False).model
        saved = VAE.load(tmp_path / f"{name}.safetensors").state_dict()
        for parameter, value in own.state_dict().items():
            np.testing.assert_array_equal(value, saved[parameter])
        expected = {
            "bound": -mean_loss(own, TEST, objective),
            "elbo": -mean_loss(own, TEST),
            "log_likelihood": log_likelihood(own, TEST, 20).mean,
            "snr_decoder": gradient_stats(objective, own, TEST[:50], 3)["snr"]["decoder"],
        }
        for column, value in expected.items():
            assert table.loc[name, column] == pytest.approx(value, rel=1e-5), column
    assert np.isfinite(table).all(axis=None)
    assert axes[0].lines
    plt.close("all")
    again = compare(model, [ELBO(), IWAE(5)], TRAIN, TEST, resume=True, **settings)
    assert again.equals(table)  # the seconds too: nothing was trained


@pytest.mark.slow
def test_gradients_are_those_of_the_objective_at_the_end():
    model = VAE(64, 3, (8,), key=key())
    table = compare(model, {"warm": ELBO(beta=Warmup(2))}, TRAIN, TEST, **QUICK)
    plt.close("all")
    own = fit(model, TRAIN, ELBO(beta=Warmup(2)), epochs=2, batch_size=50, progress=False).model
    snr = gradient_stats(ELBO(), own, TEST[:50], 3)["snr"]["encoder"]
    assert table.loc["warm", "snr_encoder"] == pytest.approx(snr, rel=1e-5)


@pytest.mark.slow
def test_gradients_are_those_of_the_final_state_of_the_objective():
    model, objective = VAE(64, 3, (8,), key=key()), GECO(20.0, update="geco")
    table = compare(model, {"geco": objective}, TRAIN, TEST, **QUICK)
    plt.close("all")
    own = fit(model, TRAIN, objective, epochs=2, batch_size=50, progress=False)
    final = objective.with_state({n: jnp.asarray(own[n][-1]) for n in objective.state()})
    first, last = (gradient_stats(o, own.model, TEST[:50], 3)["snr"] for o in (objective, final))
    assert first["encoder"] != pytest.approx(last["encoder"], rel=1e-3)
    assert table.loc["geco", "snr_encoder"] == pytest.approx(last["encoder"], rel=1e-5)


@pytest.mark.slow
def test_gradients_are_those_of_the_trained_networks_of_the_objective(tmp_path):
    model, objective = SBN(64, (4,), key=key()), ELBO(2, baseline=BaselineNet(64, (3,), key=key(1)))
    table = compare(model, {"net": objective}, TRAIN, TEST, out=tmp_path, **QUICK)
    plt.close("all")
    weights, state = {}, {}
    for name, value in read(tmp_path / "net/checkpoint.safetensors")[0].items():
        kind, _, rest = name.partition(".")
        {"network": weights, "objective": state}.get(kind, {})[rest] = jnp.asarray(value)
    final = objective.with_network_weights(weights).with_state(state)
    trained = SBN.load(tmp_path / "net.safetensors")
    stats = {
        n: gradient_stats(o, trained, TEST[:50], 3)["snr"]
        for n, o in (("first", objective.with_state(state)), ("last", final))
    }
    assert stats["first"]["encoders"] != pytest.approx(stats["last"]["encoders"], rel=1e-3)
    assert table.loc["net", "snr_encoders"] == pytest.approx(stats["last"]["encoders"], rel=1e-5)
