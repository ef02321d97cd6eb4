"""The port's measurements, against Pyro's of the same weights and where they are known."""

import linear_gaussian as exact
import numpy as np
import pytest
import torch
from cases import CASES, Part
from port_support import jnp, key, make_pair, numpyro

import ppl_vae.inference.evaluation.trained_pair as ours
from ppl_vae import inference as of_pyro
from ppl_vae.numpyro.inference import (
    active_units,
    calibration,
    diagnose,
    elbo_surgery,
    pareto_k,
    posterior_collapse,
    to_arviz,
)
from ppl_vae.numpyro.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.numpyro.models import VAE, DiagNormalNet
from ppl_vae.numpyro.models.base import Model

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}


def both(part):
    """A model in both backends with the same weights."""
    model, port = make_pair(part)
    return model, port.with_weights(model.state_dict())


def port_of(model):
    """The same linear pair in the port, in single precision."""
    networks = [DiagNormalNet(*dims, (), key=key()) for dims in ((3, 2), (2, 3))]
    port = VAE(3, 2, (2,), encoder=networks[0], decoder=networks[1], key=key())
    return port.with_weights(model.state_dict())


def conjugate(factor=1.0):
    """The exact posterior but for its variance, in both backends, and data."""
    model = exact.conjugate(exact=True)
    with torch.no_grad():
        model.encoder.log_var.bias.add_(np.log(factor))
    return model, port_of(model), exact.data()


@pytest.mark.parametrize("name", ["hierarchical", "m2-unlabelled"])
def test_what_is_said_of_given_values_is_the_same(name):
    model, port = both(CASE[name].model)
    x = CASE[name].inputs(0)
    pairs = ours.TrainedPair(model, x, batch_size=12), TrainedPair(port, x, batch_size=12)
    values = {
        name: np.concatenate([batch[name][0] for batch in pairs[0].guide(1, lambda d: d.values)])
        for name in pairs[0].guide(1, lambda d: d.values)[0]
    }
    some = {name: value[:5] for name, value in values.items()}
    found = [pair.log_guide(some) for pair in pairs]
    assert found[0].shape == (5, 24)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)
    one = {name: value[:1] for name, value in values.items()}
    np.testing.assert_allclose(pairs[1].log_guide(one), found[0][:1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(*(p.log_prior(values, 1) for p in pairs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["vae", "sbn", "sbn-categorical", "m2-unlabelled", "dlgm-rank-one"]
)
def test_active_units_and_closed_forms_are_the_same(name):
    part = CASE[name].model
    if name.startswith("sbn"):  # of one layer, which does not depend on draws
        one = {"z_dims": (3,), "hidden": ((5,),) if "hidden" in part.arguments else ()}
        part = Part("SBN", {**part.arguments, **one})
    model, port = both(part)
    x = CASE[name].inputs(0)
    pairs = ours.TrainedPair(model, x), TrainedPair(port, x)
    means, kls = zip(*[pair.joint(2, lambda d: (d.means, d.kl))[0] for pair in pairs], strict=True)
    first = "y" if name == "m2-unlabelled" else min(means[0])
    assert means[0].keys() == means[1].keys()
    assert kls[0].keys() == kls[1].keys()
    np.testing.assert_allclose(means[1][first], means[0][first], rtol=1e-4, atol=1e-5)
    closed = "xi_2" if name == "dlgm-rank-one" else first
    np.testing.assert_allclose(kls[1][closed], kls[0][closed], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_results_are_those_of_pyro_and_in_its_order():
    model, port = both(CASE["vae"].model)
    x = CASE["vae"].inputs(0)
    for name in ("variances", "errors"):
        found = [
            getattr(f(m, x, k=2), name)["z"]
            for f, m in ((of_pyro.active_units, model), (active_units, port))
        ]
        np.testing.assert_allclose(*found, rtol=1e-3)
    found = [
        f(m, x, k=2, epsilon=0.1)
        for f, m in ((of_pyro.posterior_collapse, model), (posterior_collapse, port))
    ]
    assert str(found[0]).split()[:9] == str(found[1]).split()[:9]
    for name in ("kl", "errors", "shares"):
        np.testing.assert_allclose(*(getattr(f, name)["z"] for f in found), rtol=1e-3)
    ladder, x = make_pair(CASE["ladder"].model)[1], CASE["ladder"].inputs(0)
    assert list(active_units(ladder, x, k=2).variances) == ["z_1", "z_2", "z_3"]


@pytest.mark.slow
def test_the_parts_of_the_kl_term():
    """I(x; z_1, z_2) = I(x; z_1) where z_2 depends on x by z_1 alone, draw by draw."""
    _, port = both(CASE["hierarchical"].model)
    (x,) = CASE["hierarchical"].inputs(0)
    found = elbo_surgery(port, x, k=3, batch_size=12)
    z = np.concatenate(
        TrainedPair(port, x, batch_size=12).joint(3, lambda d: d.values["z_1"]), axis=1
    )
    q = port.encoders[0](jnp.asarray(x)).base_dist
    loc, scale = np.asarray(q.loc, float), np.asarray(q.scale, float)
    log_q = (-0.5 * ((z[:, :, None] - loc) / scale) ** 2 - np.log(scale)).sum(-1)
    own = np.diagonal(log_q, axis1=1, axis2=2)
    expected = own - np.logaddexp.reduce(log_q, -1) + np.log(24)
    np.testing.assert_allclose(found.mutual_information.values, expected.mean(0), atol=1e-4)
    with pytest.raises(ValueError, match=r"one prior.*depends on the datum"):
        elbo_surgery(make_pair(CASE["cvae"].model)[1], CASE["cvae"].inputs(0))


def test_weights_and_draws_at_the_exact_posterior():
    model, port, x = conjugate()
    np.testing.assert_array_equal(pareto_k(port, x, k=100).values, -np.inf)
    found = to_arviz(port, x, k=2500, batch_size=4)
    evidence = exact.log_evidence(model, x).detach().expand(2500, 4)
    np.testing.assert_allclose(found.sample_stats["log_weight"][0], evidence, atol=1e-4)
    q = model.encoder(x)
    z, x_rep = (
        found[g][s].values[0] for g, s in (("posterior", "z"), ("posterior_predictive", "x"))
    )
    mean, variance = q.mean.detach().numpy(), q.variance.detach().numpy()
    assert (np.abs(z.mean(0) - mean) < 4.5 * (variance / 2500) ** 0.5).all()
    assert (np.abs(z.var(0) / variance - 1) < 4.5 * (2 / 2500) ** 0.5).all()
    weight = model.decoder.loc.weight.detach().numpy()
    np.testing.assert_allclose(x_rep.var(0), variance @ weight.T**2 + 0.4, rtol=0.12)
    np.testing.assert_allclose(found.prior["z"].values[0].var(0), 1.0, rtol=0.12)
    prior_x = found.prior_predictive["x"].values[0].var(0)
    np.testing.assert_allclose(prior_x, np.tile((weight**2).sum(1) + 0.4, (4, 1)), rtol=0.12)


def test_each_batch_has_draws_of_its_own():
    _, port, x = conjugate()
    pair = TrainedPair(port, np.repeat(x.numpy()[:1], 4, 0), batch_size=2)
    first, second = pair.guide(1, lambda draws: draws.values["z"])
    assert np.abs(first - second).min() > 1e-3


@pytest.mark.slow
def test_ranks_of_exact_and_narrow_guides():
    _, port, _ = conjugate()
    assert not calibration(port, 1000).uneven()["z"].any()
    narrow = calibration(conjugate(0.25)[1], 1000)
    assert narrow.uneven()["z"].all()
    assert (narrow.spread["z"] > 1.3).all()


@pytest.mark.slow
def test_what_is_simulated_takes_the_place_of_data():
    (x, y), port = CASE["m2-labelled"].inputs(0), make_pair(CASE["m2-labelled"].model)[1]
    found = [calibration(port, 100, data=(x, label)) for label in (y, np.zeros_like(y))]
    assert list(found[0].ranks) == ["z"]
    np.testing.assert_array_equal(*(f.ranks["z"] for f in found))
    with pytest.raises(ValueError, match=r"conditions .*\(c\).*was None"):
        calibration(make_pair(CASE["cvae"].model)[1])


@pytest.mark.slow
def test_the_table():
    _, port, _ = conjugate(0.02)
    x = np.asarray(port.sample(60, key=key())["x"])
    found = {name: verdict for name, _, verdict in diagnose(port, x, simulations=300).lines}
    assert found["ranks of z"].startswith("poor: the guide is narrower than")
    assert found["log p(x) - ELBO"].startswith("poor")
    assert found["active units of z"] == "good"


class Odd(Model):
    """A latent that is global, or has a mask, or that the model alone enumerates."""

    what: str
    loc: object

    def __init__(self, what):
        self.what, self.loc = what, jnp.zeros(())

    def check(self, *data):
        pass

    def model(self, x):
        if self.what == "global":
            numpyro.sample("z", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(x)):
            y = 0.0
            if self.what == "enumerated":
                infer = {"enumerate": "parallel"}
                y = numpyro.sample("y", dist.Bernoulli(0.5), infer=infer)
            if self.what != "global":
                with numpyro.handlers.mask(mask=self.hidden(x)):
                    numpyro.sample("z", dist.Normal(y, 1.0))
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    def guide(self, x):
        if self.what == "global":
            numpyro.sample("z", dist.Normal(self.loc, 1.0))
        with numpyro.plate("data", len(x)), numpyro.handlers.mask(mask=self.hidden(x)):
            if self.what != "global":
                numpyro.sample("z", dist.Normal(self.loc, 1.0))

    def hidden(self, x):
        return x[:, 0] > 0 if self.what == "mask" else True


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("global", "site 'z' should lie in the data plate, but it belongs to all data"),
        ("mask", "site 'z' should have no mask"),
        ("enumerated", "site 'y' should be drawn by the guide, was enumerated by the model alone"),
    ],
)
def test_latents_that_are_not_of_a_datum_are_refused(what, says):
    with pytest.raises(ValueError, match=says):
        posterior_collapse(Odd(what), np.ones((5, 1), np.float32), k=2)


def test_wrong_input_is_named():
    _, port, x = conjugate()
    for function in (active_units, posterior_collapse, elbo_surgery, pareto_k, to_arviz, diagnose):
        with pytest.raises(ValueError, match=r"x should have shape \(n, 3\)"):
            function(port, np.zeros((4, 5), np.float32))
        with pytest.raises(ValueError, match=r"k should be .*was 0"):
            function(port, x, k=0)
    with pytest.raises(ValueError, match="guide should draw a latent site"):
        active_units(make_pair(CASE["classifier"].model)[1], CASE["classifier"].inputs(0))
