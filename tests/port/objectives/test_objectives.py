"""The port's objectives: against Pyro's, against sums written out, and in numpyro.infer.SVI."""

import copy

import numpy as np
import pyro.distributions
import pytest
import torch
from cases import (
    CASES,
    M2,
    Part,
    conditioned,
    labelled,
    masked_by_class,
    partly_labelled,
    pixels,
)
from port_support import Noise, TorchNoise, jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
from ppl_vae.numpyro.inference import ELBO, SemiSupervised
from ppl_vae.numpyro.inference.draws import draw
from ppl_vae.numpyro.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.numpyro.models.base import parameters, with_parameters
from ppl_vae.parity import float64

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}


OBJECTIVES = [
    ("vae", Part("ELBO"), pixels),
    ("vae", Part("ELBO", {"k": 3, "analytic_kl": True}), pixels),
    ("m2-unlabelled", Part("ELBO", {"k": 2}), pixels),
    ("m2-unlabelled", Part("ELBO", {"analytic_kl": True}), pixels),
    ("m2-unlabelled", Part("ELBO"), labelled),
    ("m2-unlabelled", Part("SemiSupervised", {"alpha": 0.7, "k": 2}), partly_labelled),
    ("m2-unlabelled", Part("SemiSupervised", {"labelled_fraction": 0.1}), partly_labelled),
    ("m2-unlabelled", Part("SemiSupervised"), labelled),
    ("ladder", Part("ELBO", {"k": 2, "beta": 0.3}), pixels),
    ("ladder", Part("ELBO", {"beta": 0.0}), pixels),
    ("ladder", Part("ELBO", {"beta": 0.6, "free_bits": 0.4}), pixels),
    ("ladder", Part("ELBO", {"analytic_kl": True, "free_bits": 0.1}), pixels),
    ("m2-unlabelled", Part("ELBO", {"beta": 0.6}), pixels),
    ("classifier", Part("ELBO"), labelled),
    ("cvae", Part("Hybrid", {"alpha": 0.3, "k": 2}), conditioned),
    ("cvae-baseline", Part("Hybrid", {"alpha": 0.6, "analytic_kl": True}), masked_by_class),
]


@pytest.mark.parametrize(("name", "objective", "make_data"), OBJECTIVES)
def test_the_loss_and_its_gradients_are_those_of_pyro(name, objective, make_data):
    """Latents are mean + stddev * noise in both, so gradients through them are compared as well."""
    model, port = make_pair(CASE[name].model)
    model.double()
    data = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in make_data(0)]
    with TorchNoise():
        ours = objective.make(ppl_vae.inference).differentiable_loss(
            model.model, model.guide, *map(torch.tensor, data)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(ours, weights, allow_unused=True)
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            with Noise():
                other = objective.make(ppl_vae.numpyro.inference)
                return other.differentiable_loss(this.model, this.guide, *data, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for parameter, grad in zip(names, grads, strict=True):
        expected = 0.0 if grad is None else grad
        np.testing.assert_allclose(found[parameter], expected, atol=1e-9, rtol=1e-9)


def test_the_sum_over_classes_written_out():
    _, port = make_pair(Part("M2", M2))
    (x,) = pixels(0)

    @jax.jit
    def bound_of(*data):
        with Noise():
            return elbo_per_datum(draw(port.model, port.guide, *data, key=key()))

    bound, each = bound_of(x), [bound_of(x, jnp.full(len(x), c)) for c in range(3)]
    q = port.predict_proba(x)
    expected = sum(q[:, c] * (each[c] - jnp.log(q[:, c])) for c in range(3))
    np.testing.assert_allclose(bound, expected, rtol=1e-5)


LOGITS, MEANS = np.array([0.3, -0.4, 0.1], np.float32), np.array([-1.0, 0.5, 2.0], np.float32)
X = np.array([0.2, -1.5, 1.0, 2.2], np.float32)


def mixture(x, infer=None):
    with numpyro.plate("data", len(x)):
        y = numpyro.sample("y", dist.Categorical(logits=jnp.asarray(LOGITS)), infer=infer)
        numpyro.sample("x", dist.Normal(jnp.asarray(MEANS)[y], 1.0), obs=x)


def log_joint(x):
    log_p = jax.nn.log_softmax(LOGITS)
    return log_p + dist.Normal(jnp.asarray(MEANS), 1.0).log_prob(x[:, None])


@pytest.mark.slow
def test_a_site_that_only_the_model_enumerates():
    def model(x):
        mixture(x, {"enumerate": "parallel"})

    loss = ELBO(k=2).loss(key(), {}, model, lambda x: None, X)
    np.testing.assert_allclose(loss, -jax.nn.logsumexp(log_joint(X), axis=1).sum(), rtol=1e-6)


def guide_by(infer):
    def guide(x):
        logits = numpyro.param("logits", jnp.zeros((4, 3)))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Categorical(logits=logits), infer=infer)

    return guide


@pytest.mark.slow
def test_the_score_function_is_unbiased():
    def exact(logits):
        q = jax.nn.softmax(logits)
        return -(q * (log_joint(X) - jax.nn.log_softmax(logits))).sum()

    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    expected_loss, expected = jax.value_and_grad(exact)(logits)

    def one(k):
        loss = lambda v: ELBO(k=50).loss(k, {"logits": v}, mixture, guide_by({}), X)  # noqa: E731
        return jax.value_and_grad(loss)(logits)

    losses, grads = jax.jit(jax.vmap(one))(jax.random.split(key(), 400))
    assert abs(losses.mean() - expected_loss) < 4 * losses.std() / 20
    assert (abs(grads.mean(0) - expected) < 4 * grads.std(0) / 20 + 1e-6).all()
    assert (abs(expected) > 8 * grads.std(0) / 20).any()  # so no gradient at all would be seen
    marked = guide_by({"enumerate": "parallel"})
    loss = lambda v: ELBO().loss(key(), {"logits": v}, mixture, marked, X)  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(logits), expected, atol=1e-5)


class Unreparametrised(dist.Normal):
    """Its gradient needs the score function."""

    reparametrized_params = ()


@pytest.mark.slow
def test_the_score_function_of_a_continuous_site():
    def model(x):
        with numpyro.plate("data", 1):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x):
        loc = numpyro.param("loc", jnp.zeros(()))
        with numpyro.plate("data", 1):
            numpyro.sample("z", Unreparametrised(loc, 1.0))

    loss = lambda v: ELBO(k=100_000).loss(key(), {"loc": v}, model, guide, X)  # noqa: E731
    assert abs(jax.grad(loss)(jnp.asarray(1.0)) - 1.0) < 0.05  # of KL = loc^2 / 2


def test_masks_and_scales():
    keep = np.array([True, False, True, True])

    def model(x):
        with numpyro.plate("data", 8, subsample_size=4), numpyro.handlers.mask(mask=keep):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", 8, subsample_size=4), numpyro.handlers.mask(mask=keep):
            numpyro.sample("z", dist.Normal(x, 0.5))

    z = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    fixed = numpyro.handlers.substitute(guide, data={"z": z})
    terms = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)
    log_q = dist.Normal(X, 0.5).log_prob(z)
    expected = -2 * jnp.where(keep, terms - log_q, 0.0).sum()
    np.testing.assert_allclose(ELBO().loss(key(), {}, model, fixed, X), expected, rtol=1e-6)
    kl = np.log(2) + (0.25 + X**2) / 2 - 0.5
    expected = -2 * jnp.where(keep, dist.Normal(z, 1.0).log_prob(X) - kl, 0.0).sum()
    closed = ELBO(analytic_kl=True).loss(key(), {}, model, fixed, X)
    np.testing.assert_allclose(closed, expected, rtol=1e-6)


@pytest.mark.slow
def test_inner_plates_and_global_sites():
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)

    def model(x):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("data", 3, dim=-1), numpyro.plate("inner", 2, dim=-2):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        numpyro.sample("mu", dist.Delta(jnp.asarray(0.7)))

    expected = dist.Normal(0.0, 2.0).log_prob(0.7) + dist.Normal(0.7, 1.0).log_prob(x).sum()
    for k in (1, 3):
        loss = ELBO(k=k, max_plate_nesting=2).loss(key(), {}, model, guide, x)
        np.testing.assert_allclose(loss, -expected, rtol=1e-6)
    says = "max_plate_nesting should be at least 2 for the plate 'inner' at dim -2, was 1"
    for k in (1, 3):
        with pytest.raises(ValueError, match=says):
            ELBO(k=k).loss(key(), {}, model, guide, x)


def test_plates_that_collide_are_named():
    def model(x):
        plate = numpyro.plate
        with plate("data", 3), plate("one", 2, dim=-2), plate("two", 2, dim=-2):
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    says = r"plate 'two' should have a dim of its own, was at dim -2 with \['one'\]"
    with pytest.raises(ValueError, match=says):
        ELBO(max_plate_nesting=2).loss(key(), {}, model, lambda x: None, X)

    def asserting(x):
        assert len(x) == 0

    with pytest.raises(AssertionError):  # a user's own
        ELBO().loss(key(), {}, asserting, lambda x: None, X)


def test_analytic_kl_is_refused_in_pyros_words():
    def programs(sample, plate, dist):
        def model(x):
            with plate("data", len(x)):
                sample("z", dist.StudentT(3.0, 0.0 * x, 1.0))

        def guide(x):
            with plate("data", len(x)):
                sample("z", dist.Normal(x, 1.0))

        return model, guide

    says = r"analytic_kl should be False: site 'z' has no closed form of KL\(Normal \|\| StudentT\)"
    theirs = programs(pyro.sample, pyro.plate, pyro.distributions)
    ours = programs(numpyro.sample, numpyro.plate, dist)
    with pytest.raises(ValueError, match=says):
        ppl_vae.inference.ELBO(analytic_kl=True).loss(*theirs, torch.tensor(X))
    with pytest.raises(ValueError, match=says):
        ELBO(analytic_kl=True).loss(key(), {}, *ours, X)


@pytest.mark.slow
def test_svi_trains_two_ports_side_by_side():
    _, first = make_pair(CASE["vae"].model)
    second = jax.tree.map(lambda v: v * 1.1, first)
    before = copy.deepcopy(first.state_dict())
    (x,) = pixels(0)
    runs = []
    for port in (first, second):
        svi = numpyro.infer.SVI(port.model, port.guide, numpyro.optim.Adam(1e-2), ELBO())
        runs.append((port, svi, svi.init(key(), x), jax.jit(svi.update)))
    evaluate = jax.jit(lambda p: ELBO(k=50).loss(key(), {}, p.model, p.guide, x))
    states = [state for _, _, state, _ in runs]
    for _ in range(30):
        states = [run[3](state, x)[0] for run, state in zip(runs, states, strict=True)]
    for (port, svi, _, _), state in zip(runs, states, strict=True):
        weights = svi.get_params(state)
        trained = port.with_weights(weights)
        assert all(not np.array_equal(weights[n], v) for n, v in parameters(port).items())
        assert evaluate(trained) < 0.98 * evaluate(port)
    assert all(np.array_equal(v, before[n]) for n, v in first.state_dict().items())


def test_labels_that_jit_traces():
    _, port = make_pair(Part("M2", M2))
    x, y = partly_labelled(0)
    order = np.argsort(y < 0, kind="stable")
    x, y = x[order], y[order]
    first = SemiSupervised(labelled_first=int((y >= 0).sum()))

    def loss(objective, *data):
        with Noise():
            return objective.loss(key(), {}, port.model, port.guide, *data)

    looked_at = jax.jit(lambda x: loss(SemiSupervised(), x, y))(x)
    traced = jax.jit(lambda x, y: loss(first, x, y))(x, y)
    np.testing.assert_allclose(looked_at, traced, rtol=1e-5)
    with pytest.raises(ValueError, match="labelled_first should be the number of labelled"):
        jax.jit(lambda x, y: loss(SemiSupervised(), x, y))(x, y)


def test_mutable_state_goes_from_guide_to_model_and_out():
    from numpyro.contrib.module import numpyro_mutable

    def count(x):
        state = numpyro_mutable("calls", {"n": jnp.zeros(())})
        state["n"] = state["n"] + 1

    svi = numpyro.infer.SVI(count, count, numpyro.optim.Adam(1e-2), ELBO())
    state, _ = svi.update(svi.init(key(), X), X)
    started = svi.init(key(), X).mutable_state["calls"]["n"]
    assert state.mutable_state["calls"]["n"] == started + 2


def test_arguments_are_checked():
    for make, says in (
        (lambda: ELBO(k=0), "k should be a whole number of at least 1"),
        (lambda: SemiSupervised(alpha=-1.0), "alpha should be at least 0"),
        (lambda: SemiSupervised(labelled_fraction=2.0), "labelled_fraction should lie in"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


def test_what_a_program_may_not_do():
    def two_plates(x):
        with numpyro.plate("data", 4):
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
        with numpyro.plate("other", 3):
            numpyro.sample("z", dist.Normal(0.0, 1.0), obs=x[:3])

    def unguided(x):
        with numpyro.plate("data", 4):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    for model, says in ((two_plates, "plates at dim -1 should"), (unguided, "site 'z' should be")):
        with pytest.raises(ValueError, match=says):
            ELBO().loss(key(), {}, model, lambda x: None, X)
