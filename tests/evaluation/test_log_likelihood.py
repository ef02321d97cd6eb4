"""The importance-sampled log p(x) where log p(x) is known."""

import pickle
from typing import Any

import linear_gaussian as exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.inference import log_likelihood
from ppl_vae.models import M2, BernoulliNet, CategoricalNet, Classifier, DiagNormalNet, Model
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.likelihood import Weighing, effort_of

FIELDS = ("values", "errors")


def test_every_draw_is_log_p_at_the_exact_posterior() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    estimate = log_likelihood(model, x, k=7, batch_size=3, particles=4)
    truth = exact.log_evidence(model, x).detach()
    np.testing.assert_allclose(estimate.values, truth, atol=1e-10)
    np.testing.assert_allclose(estimate.errors, 0, atol=1e-6)


def test_more_draws_come_nearer_from_below() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    truth = exact.log_evidence(model, x).mean().item()

    def mean(k: int, seeds: int) -> tuple[float, float]:
        runs = [log_likelihood(model, x, k, seed=seed).mean for seed in range(seeds)]
        return float(np.mean(runs)), float(np.std(runs, ddof=1) / seeds**0.5)

    few, error = mean(k=2, seeds=100)
    assert few < truth - 3 * error
    more, error = mean(k=2000, seeds=20)
    assert few < more
    assert abs(more - truth) < 4 * error + 0.01


def test_errors_are_the_spread_over_seeds() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    with torch.no_grad():
        model.encoder.log_var.bias.add_(0.5)
    runs = [log_likelihood(model, x, 90, seed=seed, particles=40) for seed in range(300)]
    values, errors = (np.stack([getattr(run, name) for run in runs]) for name in FIELDS)
    np.testing.assert_allclose((errors**2).mean(0), values.var(0, ddof=1), rtol=0.25)
    one = log_likelihood(model, x, k=1)
    assert np.isfinite(one.values).all()
    assert np.isnan(one.errors).all()


def test_an_estimate() -> None:
    log_w = np.random.default_rng(0).normal(size=(5, 3))
    one, two = (np.logaddexp.reduce(factor * log_w, axis=0) for factor in (1, 2))
    estimate = Estimate.of_weights((one, two), 5)
    w = np.exp(log_w)
    np.testing.assert_allclose(estimate.values, np.log(w.mean(0)))
    np.testing.assert_allclose(estimate.errors, w.std(0, ddof=1) / 5**0.5 / w.mean(0))
    back = pickle.loads(pickle.dumps(estimate))
    twice = Estimate.join([back[:1], back[1:]])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(twice, name), getattr(estimate, name))
    assert (len(estimate), len(estimate[1:])) == (3, 2)
    some = Estimate(np.array([1.0, 2.0, 4.5]), np.zeros(3))
    assert (some.mean, some.standard_error) == pytest.approx((2.5, (3.25 / 3) ** 0.5))
    assert str(some) == "2.50 ± 1.04 (3 data)"
    assert str(some[:1]) == "1.00 (1 datum)"
    draws = np.random.default_rng(1).normal(size=(4, 3))
    drawn = Estimate.of_draws(torch.tensor(draws))
    np.testing.assert_allclose(drawn.values, draws.mean(0))
    np.testing.assert_allclose(drawn.errors, draws.std(0, ddof=1) / 2)
    assert np.isnan(Estimate.of_draws(draws[:1]).errors).all()
    with pytest.raises(ValueError, match=r"should have one shape \(n,\), had \(\(3,\), \(2,\)\)"):
        Estimate(np.zeros(3), np.zeros(2))


def test_a_difference_is_paired() -> None:
    """Its standard error is that of the differences, here far below those of the two means."""
    rng = np.random.default_rng(0)
    hard, more = 30 * rng.normal(size=200), rng.normal(1.0, 0.1, size=200)
    a = Estimate(hard + more, np.full(200, 0.3))
    b = Estimate(hard, np.full(200, 0.4))
    difference = a - b
    np.testing.assert_allclose(difference.values, more, atol=1e-12)
    np.testing.assert_allclose(difference.errors, 0.5)
    assert difference.mean == pytest.approx(a.mean - b.mean)
    assert difference.standard_error == pytest.approx(more.std(ddof=1) / 200**0.5)
    assert difference.standard_error < 0.01 * np.hypot(a.standard_error, b.standard_error)
    assert difference.monte_carlo_error == pytest.approx(0.5 / 200**0.5)
    uneven = Estimate(np.zeros(2), np.array([3.0, 4.0]))
    assert uneven.monte_carlo_error == pytest.approx(2.5)
    assert np.isnan(Estimate(np.zeros(2), np.array([3.0, np.nan])).monte_carlo_error)
    says = "both estimates of a difference should be of the same data, were of 200 and 3"
    with pytest.raises(ValueError, match=says):
        a - b[:3]
    with pytest.raises(TypeError):
        a - 1.0  # type: ignore[operator]


def test_classes_are_summed_over() -> None:
    """log sum_y p(y) p(x | y), with a z that tells nothing and whose posterior is its prior."""
    model = M2(6, 3, 2, (4,))
    with torch.no_grad():
        model.decoder.trunk.layers[0].weight[:, :2].zero_()
        for layer in (model.encoder.loc, model.encoder.log_var):
            layer.weight.zero_()
            layer.bias.zero_()
        x = torch.rand(5, 6).round()
        per_class = [model.decoder(torch.zeros(2), row).log_prob(x) for row in torch.eye(3)]
        truth = torch.stack(per_class).logsumexp(0) - np.log(3)
        labelled = per_class[1] - np.log(3)
    np.testing.assert_allclose(log_likelihood(model, x, k=3).values, truth, atol=1e-5)
    y = torch.ones(5, dtype=torch.int64)
    np.testing.assert_allclose(log_likelihood(model, (x, y), k=3).values, labelled, atol=1e-5)


def test_it_costs_no_random_numbers_and_is_the_same_for_a_seed() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    before = torch.get_rng_state()
    one, two = log_likelihood(model, x, k=4), log_likelihood(model, x, k=4)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one.values, two.values)
    assert not (one.values == log_likelihood(model, x, k=4, seed=1).values).any()


def test_it_is_of_evaluation() -> None:
    net = CategoricalNet(6, 3, (8,), dropout=(0.5, 0.5))
    model, x, y = Classifier(6, 3, classifier=net), torch.ones(4, 6), torch.ones(4).long()
    estimate = log_likelihood(model, (x, y), k=4)
    assert model.training
    np.testing.assert_allclose(estimate.values, model.predict_proba(x)[:, 1].log(), rtol=1e-5)


class Shared(Model):
    """A latent variable that belongs to all data."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim = 2
        self.decoder, self.encoder = BernoulliNet(1, 2, ()), DiagNormalNet(1, 1, ())

    def model(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("z", self.encoder(torch.zeros(1)))


def test_wrong_input_is_named() -> None:
    model = exact.conjugate(exact=True)
    with pytest.raises(ValueError, match="k should be a whole number of at least 1, was 0"):
        log_likelihood(model, exact.data(), k=0)
    with pytest.raises(ValueError, match="method should be iw or ais, was 'is'"):
        log_likelihood(model, exact.data(), method="is")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x should have shape \(n, 3\)"):
        log_likelihood(model, torch.rand(2, 5), k=1)
    with pytest.raises(ValueError, match="site 'z' should lie in the data plate"):
        log_likelihood(Shared(), torch.ones(2, 2), k=2)


FOREIGN = {
    **dict.fromkeys(("chains", "temperatures", "leapfrog_steps", "adaptation"), "iw"),
    **dict.fromkeys(("k", "particles"), "ais"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_arguments_of_the_other_method_are_refused(name: str) -> None:
    method = FOREIGN[name]
    other = "ais" if method == "iw" else "iw"
    says = f"{name} should be left out with method='{method}', .* belongs to method='{other}'"
    given: dict[str, Any] = {name: 7, "method": method}
    model = exact.conjugate(exact=True)
    with pytest.raises(ValueError, match=says):
        log_likelihood(model, exact.data(), **given)
    pytest.importorskip("port_support")
    from ppl_vae.numpyro.inference import log_likelihood as in_port

    with pytest.raises(ValueError, match=says):
        in_port(model, exact.data(), **given)


def test_defaults_of_each_method() -> None:
    nothing = dict.fromkeys(FOREIGN)
    assert effort_of("iw", **nothing) == Weighing(k=5000, particles=50)
    expected = Annealing(chains=16, temperatures=1000, leapfrog_steps=10, adaptation=100)
    assert effort_of("ais", **nothing) == expected
    assert effort_of("iw", **{**nothing, "k": 3, "particles": 2}) == Weighing(3, 2)
    own = {"chains": 2, "temperatures": 3, "leapfrog_steps": 4, "adaptation": 5}
    assert effort_of("ais", **{**nothing, **own}) == Annealing(2, 3, 4, 5)


@pytest.mark.slow
def test_the_port_agrees() -> None:
    pytest.importorskip("numpyro", reason="the NumPyro port is not installed")
    from port_support import jax

    from ppl_vae.numpyro.inference import log_likelihood as in_port
    from ppl_vae.numpyro.models import VAE as Port
    from ppl_vae.numpyro.models import DiagNormalNet as PortNet

    model, x, key = exact.conjugate(exact=True), exact.data(), jax.random.key(0)
    decoder = PortNet(exact.Z_DIM, exact.X_DIM, (), key=key)
    encoder = PortNet(exact.X_DIM, exact.Z_DIM, (), key=key)
    port = Port(exact.X_DIM, exact.Z_DIM, (2,), encoder=encoder, decoder=decoder, key=key)
    port = port.with_weights(model.state_dict())
    truth = exact.log_evidence(model, x).detach()
    for k, batch_size in ((11, 3), (3, 4)):  # in parts of 4: two and a rest; less than one
        settings = {"k": k, "batch_size": batch_size, "particles": 4}
        estimate = in_port(port, x.numpy().astype(np.float32), **settings)
        np.testing.assert_allclose(estimate.values, truth, atol=1e-4)
        np.testing.assert_allclose(estimate.errors, 0, atol=1e-2)
