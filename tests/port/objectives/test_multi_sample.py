"""The port's bounds of several particles: against Pyro's, and where their gradient is known."""

import bounds
import numpy as np
import port_support
import pytest
import torch
from cases import CASES, Part, pixels
from port_support import Noise, TorchNoise, jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
from ppl_vae.numpyro import inference
from ppl_vae.numpyro.inference import CIWAE, CUBO, ELBO, IWAE, MIWAE, STL, DReG, Renyi
from ppl_vae.numpyro.inference.draws import draw
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.numpyro.models.networks.layers import training
from ppl_vae.parity import float64

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}
OBJECTIVES = [
    ("hierarchical", Part("IWAE", {"k": 3})),
    ("vae", Part("MIWAE", {"m": 2, "k": 3})),
    ("vae", Part("CIWAE", {"beta": 0.3, "k": 3})),
    ("vae", Part("Renyi", {"alpha": 0.5, "k": 3})),
    ("vae", Part("Renyi", {"alpha": float("-inf"), "k": 3})),
    ("ladder", Part("CUBO", {"n": 2.0, "k": 3})),
    ("ladder", Part("STL", {"k": 3})),
    ("hierarchical", Part("DReG", {"k": 3})),
]


@pytest.fixture
def noise_of_each_particle(monkeypatch):
    """Noise that differs between particles, or all bounds would be one."""

    def noise(shape):
        return 1.3 * np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape)

    monkeypatch.setattr(port_support, "noise", noise)


@pytest.mark.parametrize(("name", "objective"), OBJECTIVES, ids=lambda v: getattr(v, "cls", v))
def test_the_loss_and_its_gradients_are_those_of_pyro(name, objective, noise_of_each_particle):
    model, port = make_pair(CASE[name].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    with TorchNoise():
        ours = objective.make(ppl_vae.inference).differentiable_loss(
            model.model, model.guide, torch.tensor(x)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(ours, weights, allow_unused=True)
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            with Noise():
                other = objective.make(inference)
                return other.differentiable_loss(this.model, this.guide, x, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for parameter, grad in zip(names, grads, strict=True):
        expected = 0.0 if grad is None else grad
        np.testing.assert_allclose(found[parameter], expected, atol=1e-9, rtol=1e-9)


LOGITS, MEANS = np.array([0.3, -0.4, 0.1], np.float32), np.array([-1.0, 0.5, 2.0], np.float32)
X = np.array([0.2, -1.5], np.float32)


def loss_of(objective, model, q, x=X):
    return jax.jit(lambda x: objective.loss(key(), {}, model, q, x))(x)


def refuse(says, objective, model, q):
    with pytest.raises(ValueError, match=says):  # where it is traced, before it is compiled
        jax.eval_shape(
            lambda x: objective.loss(key(), {"logits": jnp.zeros((2, 3))}, model, q, x), X
        )


def mixture(x, infer=None):
    with numpyro.plate("data", len(x)):
        y = numpyro.sample("y", dist.Categorical(logits=jnp.asarray(LOGITS)), infer=infer)
        numpyro.sample("x", dist.Normal(jnp.asarray(MEANS)[y], 1.0), obs=x)


def guide(x, infer=None):
    logits = numpyro.param("logits", jnp.zeros((len(x), 3)))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Categorical(logits=logits), infer=infer)


def pairs_of_classes(bound):
    """-E bound(log w_1, log w_2) and its gradient by the guide's logits, by enumeration."""
    logits = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    log_q = logits.log_softmax(-1).T
    log_p_x = bounds.standard_normal(torch.tensor(X)[:, None] - torch.tensor(MEANS))
    log_w = (torch.tensor(LOGITS).log_softmax(-1) + log_p_x).T - log_q
    loss = -bounds.expected(bound, log_q, log_w).sum()
    return logits.detach().numpy(), loss.item(), torch.autograd.grad(loss, logits)[0].numpy()


SCORED = [
    (IWAE(2), bounds.log_mean_exp),
    (MIWAE(2, 2), bounds.log_mean_exp),
    (CIWAE(1.0, 2), lambda log_w: log_w.mean(-2)),
    (Renyi(0.5, 2), lambda log_w: 2 * (0.5 * log_w).exp().mean(-2).log()),
]


@pytest.mark.parametrize(("objective", "bound"), SCORED, ids=lambda v: type(v).__name__)
def test_discrete_latents_get_the_gradient_of_the_expected_bound(objective, bound):
    logits, expected_loss, expected = pairs_of_classes(bound)

    def one(k):
        loss = lambda v: objective.loss(k, {"logits": v}, mixture, guide, X)  # noqa: E731
        return jax.value_and_grad(loss)(jnp.asarray(logits, jnp.float32))

    n = 20_000
    losses, grads = jax.jit(jax.vmap(one))(jax.random.split(key(), n))
    assert abs(losses.mean() - expected_loss) < 4 * losses.std() / n**0.5
    assert (abs(grads.mean(0) - expected) < 4 * grads.std(0) / n**0.5).all()
    assert (abs(expected) > 8 * grads.std(0) / n**0.5).any()


def test_the_score_function_of_the_chi_bound():
    """(1 - n) / n sum_i v_i dlog q(y_i), in expectation over all pairs of classes."""
    n = 2.0
    logits = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    log_q = logits.log_softmax(-1).T
    log_p_x = bounds.standard_normal(torch.tensor(X)[:, None] - torch.tensor(MEANS))
    log_w = ((torch.tensor(LOGITS).log_softmax(-1) + log_p_x).T - log_q).detach()
    pairs = [torch.stack(torch.broadcast_tensors(v[:, None], v[None, :])) for v in (log_q, log_w)]
    prob = pairs[0].sum(0).exp().detach()
    expected_loss = (prob * ((n * pairs[1]).exp().mean(0).log() / n)).sum()
    target = (1 - n) / n * (prob * ((n * pairs[1]).softmax(0) * pairs[0]).sum(0)).sum()
    expected = torch.autograd.grad(target, logits)[0].numpy()

    def one(k):
        loss = lambda v: CUBO(n, 2).loss(k, {"logits": v}, mixture, guide, X)  # noqa: E731
        return jax.value_and_grad(loss)(jnp.asarray(logits.detach().numpy(), jnp.float32))

    repeats = 20_000
    losses, grads = jax.jit(jax.vmap(one))(jax.random.split(key(), repeats))
    assert abs(losses.mean() - expected_loss.item()) < 4 * losses.std() / repeats**0.5
    assert (abs(grads.mean(0) - expected) < 4 * grads.std(0) / repeats**0.5).all()
    assert (abs(expected) > 8 * grads.std(0) / repeats**0.5).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [IWAE(1), MIWAE(1, 1), CIWAE(0.3, 1), Renyi(0.5, 1), Renyi(float("-inf"), 1)]
)
def test_of_one_particle_it_is_the_elbo_in_every_draw(objective):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    found = [
        jax.jit(jax.value_and_grad(lambda v, o=o: o.loss(key(), {"logits": v}, mixture, guide, X)))(
            logits
        )
        for o in (objective, ELBO())
    ]
    for ours, elbo in zip(*found, strict=True):
        np.testing.assert_allclose(ours, elbo, rtol=1e-6)
        assert abs(np.asarray(elbo)).max() > 0.01


def test_scales_and_masks():
    keep = np.array([True, False])
    z = np.array([[0.1, 0.2], [0.7, -0.3], [-0.4, 1.0]], np.float32)

    def plate():
        return numpyro.plate("data", 6, subsample_size=2)

    def model(x):
        with plate(), numpyro.handlers.mask(mask=keep):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def q(x):
        with plate(), numpyro.handlers.mask(mask=keep):
            numpyro.sample("z", dist.Normal(x, 0.5))

    fixed = numpyro.handlers.substitute(q, data={"z": z})
    log_w = bounds.standard_normal(z) + bounds.standard_normal(X - z)
    log_w = log_w - bounds.standard_normal((X - z) / 0.5) - np.log(2)
    expected = -3 * np.log(np.exp(log_w).mean(0))[keep].sum()
    scaled = numpyro.handlers.scale(model, 2.0)
    for objective in (IWAE(3), DReG(3)):
        loss = loss_of(objective, model, fixed)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        refuse("all sites should have one scale", objective, scaled, fixed)


@pytest.mark.slow
def test_a_class_that_only_the_model_enumerates():
    marked = {"enumerate": "parallel"}
    loss = loss_of(IWAE(2), lambda x: mixture(x, marked), lambda x: None)
    prior = np.exp(LOGITS) / np.exp(LOGITS).sum()
    log_p = np.log((prior * np.exp(bounds.standard_normal(X[:, None] - MEANS))).sum(1))
    np.testing.assert_allclose(loss, -log_p.sum(), rtol=1e-6)
    masked = numpyro.handlers.mask(lambda x: mixture(x, marked), mask=np.array([True, False]))
    loss = IWAE(2).loss(key(), {}, masked, lambda x: None, X)  # jit would not know the mask
    np.testing.assert_allclose(loss, -log_p[0], rtol=1e-6)


def test_what_has_no_such_bound_is_refused():
    def shared(x):
        numpyro.sample("w", dist.Normal(0.0, 1.0))

    marked = {"enumerate": "parallel"}
    refused = [
        (lambda x: mixture(x, marked), lambda x: guide(x, marked), "'y' should not be enumerated"),
        (shared, shared, "'w' should lie in the data plate.*use ELBO"),
        (numpyro.handlers.condition(mixture, {"y": jnp.zeros(2, int)}), lambda x: None, "draw a"),
    ]
    for model, q, says in refused:
        for objective in (IWAE(2), CUBO(2, 2), STL(2)):
            refuse(says, objective, model, q)
    for objective in (STL(2), DReG(2)):
        refuse("'y' should be reparametrised, .* Categorical", objective, mixture, guide)
    for make, says in (
        (lambda: MIWAE(0, 3), "m should be"),
        (lambda: CIWAE(-1, 3), "beta should"),
        (lambda: Renyi(1.0, 3), "alpha should not be 1"),
        (lambda: CUBO(1.0, 3), "n should be a number above 1"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


def normal(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normal_guide(x):
    slope, scale = numpyro.param("slope", 0.1), numpyro.param("scale", 1.2)
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(slope * x, scale))


@pytest.mark.parametrize("objective", [STL(2), DReG(3), CUBO(2.0, 3)])
def test_path_derivatives_are_zero_at_the_posterior_in_svi_too(objective):
    at = {"slope": jnp.asarray(0.5), "scale": jnp.asarray(0.5**0.5)}
    loss = jax.jit(jax.grad(lambda v: objective.loss(key(), v, normal, normal_guide, X)))
    assert all(abs(grad) < 1e-5 for grad in loss(at).values())
    assert all(abs(grad) > 1e-3 for grad in loss({"slope": 0.3, "scale": 1.0}).values())
    svi = numpyro.infer.SVI(normal, normal_guide, numpyro.optim.Adam(0.05), objective)
    state = svi.run(key(), 300, X, progress_bar=False).params
    np.testing.assert_allclose(state["slope"], 0.5, atol=0.03)
    np.testing.assert_allclose(state["scale"], 0.5**0.5, atol=0.03)


def test_the_second_run_has_the_random_numbers_of_the_first():
    """A guide with dropout, say, draws more than its sites."""

    def q(x):
        with numpyro.plate("data", len(x)):
            before = jax.random.normal(numpyro.prng_key(), x.shape)
            z = numpyro.sample("z_1", dist.Normal(x + before, 1.0))
            after = jax.random.normal(numpyro.prng_key(), x.shape)
            numpyro.sample("z", dist.Normal(z + after, 1.0))

    def model(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z_1", dist.Normal(0.0, 1.0))
            shift = jax.random.normal(numpyro.prng_key(), x.shape)
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    losses = [loss_of(objective, model, q) for objective in (IWAE(3), DReG(3))]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_transformed_distributions():
    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.LogNormal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def q(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.LogNormal(numpyro.param("b", 0.1) * x, 0.8))

    def by_hand(b):
        run = numpyro.handlers.substitute(q, data={"b": b})
        z = draw(model, run, X, key=key()).guide["z"].value
        fixed = jax.lax.stop_gradient(b)
        log_p = dist.Normal(0.0, 1.0).log_prob(jnp.log(z)) + dist.Normal(z, 1.0).log_prob(X)
        return -(log_p - dist.Normal(fixed * X, 0.8).log_prob(jnp.log(z))).sum()

    b = jnp.asarray(0.4)
    ours = jax.jit(jax.value_and_grad(lambda b: STL().loss(key(), {"b": b}, model, q, X)))(b)
    np.testing.assert_allclose(ours, jax.jit(jax.value_and_grad(by_hand))(b), rtol=1e-5)


def test_running_statistics_move_once_in_a_step():
    _, port = make_pair(CASE["hierarchical-norm"].model)

    def state_after(objective):
        def state(x):
            run = objective.loss_with_mutable_state
            return run(key(), {}, port.model, port.guide, x)["mutable_state"]

        return jax.jit(state)(*pixels(0))

    with training():
        states = [state_after(ELBO()), state_after(STL())]
    assert len(states[0]) > 1
    for name, held in states[0].items():
        assert not np.array_equal(held["value"], port.state_dict()[name])
        np.testing.assert_allclose(held["value"], states[1][name]["value"], rtol=1e-6, atol=1e-7)
