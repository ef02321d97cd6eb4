"""Where NumPyro's own ELBO classes are wrong, and this library is not: both are shown."""

import itertools

import bounds
import numpy as np
import pytest
import torch
from cases import CASES, pixels
from port_support import jax, jnp, key, make_pair, numpyro

from ppl_vae.numpyro.inference import CIWAE, CUBO, ELBO, IWAE, TVO, VIMCO, DReG, Renyi
from ppl_vae.numpyro.inference.objectives.piwae import PIWAE
from ppl_vae.numpyro.inference.objectives.wake_sleep import RWS
from ppl_vae.numpyro.models.networks.layers import training
from ppl_vae.parity import float64

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}
LOGITS, MEANS, X = np.array([0.3, -0.4, 0.1]), np.array([-1.0, 0.5, 2.0]), np.array([0.2])
Q = np.array([[0.4, -0.3, 0.6]])


def mixture(x):
    with numpyro.plate("data", len(x)):
        y = numpyro.sample("y", dist.Categorical(logits=jnp.asarray(LOGITS)))
        numpyro.sample("x", dist.Normal(jnp.asarray(MEANS)[y], 1.0), obs=x)


def guide(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Categorical(logits=numpyro.param("logits", jnp.asarray(Q))))


def of_classes(logits):
    """log q and log w of each class, (3, 1)."""
    log_q = logits.log_softmax(-1).T
    log_p_x = bounds.standard_normal(torch.tensor(X)[:, None] - torch.tensor(MEANS))
    return log_q, (torch.tensor(LOGITS).log_softmax(-1) + log_p_x).T - log_q


def exactly(bound, k):
    """The gradient of -E bound(log w_1, ..., log w_k) by the logits of the guide."""
    logits = torch.tensor(Q, requires_grad=True)
    log_q, log_w = of_classes(logits)
    each = torch.tensor(list(itertools.product(range(3), repeat=k)))
    loss = -(log_q[each].sum(1).exp() * bound(log_w[each])).sum()
    return torch.autograd.grad(loss, logits)[0].numpy()


def expected(objective, k):
    """The expectation of the gradient that an objective gives, by all k-tuples of classes.

    NumPyro's own has its particles one by one: its expectation is over independent draws.
    """
    log_q = of_classes(torch.tensor(Q))[0][:, 0].numpy()
    each = np.array(list(itertools.product(range(3), repeat=k)))
    prob = np.exp(log_q[each].sum(1))

    def grad(y):
        given = numpyro.handlers.substitute(guide, data={"y": y if k > 1 else y[0]})
        loss = lambda v: objective.loss(key(), {"logits": v}, mixture, given, jnp.asarray(X))  # noqa: E731
        return jax.grad(loss)(jnp.asarray(Q))

    grads = jax.jit(jax.vmap(grad))(jnp.asarray(each)[:, :, None])
    return np.tensordot(prob, np.asarray(grads), 1)


def test_8_trace_elbo_leaves_the_score_out_of_the_gradient():
    """Its expectation, with a warning, is that of -dlog q: nothing."""
    truth = exactly(lambda log_w: log_w.mean(-2), 1)
    assert abs(truth).max() > 0.1
    with float64():
        theirs = expected(numpyro.infer.Trace_ELBO(), 1)
        ours = expected(ELBO(), 1)
    np.testing.assert_allclose(theirs, 0.0, atol=1e-12)
    np.testing.assert_allclose(ours, truth, atol=1e-9)


def test_8_renyi_elbo_leaves_the_score_out_of_the_gradient():
    """The gradient of q is -sum_i v_i dlog q(y_i), where the score function is to be added."""
    truth = exactly(bounds.log_mean_exp, 2)
    logits = torch.tensor(Q, requires_grad=True)
    log_q, log_w = of_classes(logits)
    each = torch.tensor(list(itertools.product(range(3), repeat=2)))
    prob = log_q[each].sum(1).exp().detach()
    without_score = -(prob * bounds.log_mean_exp(log_w[each])).sum()
    cut = torch.autograd.grad(without_score, logits)[0].numpy()
    renyi = numpyro.infer.RenyiELBO(alpha=0.0, num_particles=2)

    def one(k):
        loss = lambda v: renyi.loss(k, {"logits": v}, mixture, guide, jnp.asarray(X))  # noqa: E731
        return jax.grad(loss)(jnp.asarray(Q))

    n = 20_000
    draws = jax.jit(jax.vmap(one))(jax.random.split(key(), n))
    error = draws.std(0) / n**0.5
    assert (abs(draws.mean(0) - cut) < 4 * error).all()
    assert (abs(draws.mean(0) - truth) > 20 * error).any()


@pytest.mark.parametrize("theirs", [numpyro.infer.Trace_ELBO(), numpyro.infer.RenyiELBO()])
def test_8_svi_only_warns_of_theirs(theirs):
    def start(objective):
        svi = numpyro.infer.SVI(mixture, guide, numpyro.optim.Adam(0.01), objective)
        return svi.init(key(), X)

    with pytest.warns(UserWarning, match="discrete latent variables"):
        start(theirs)
    start(IWAE(2))  # a warning would be an error


@pytest.mark.parametrize(
    "objective",
    [IWAE(2), VIMCO(2), VIMCO(2, "arithmetic"), Renyi(0.0, 2), CIWAE(0.0, 2), PIWAE(1, 2)],
    ids=lambda o: type(o).__name__,
)
def test_8_discrete_latents_get_the_gradient_of_the_expected_bound(objective):
    with float64():
        ours = expected(objective, 2)
    np.testing.assert_allclose(ours, exactly(bounds.log_mean_exp, 2), atol=1e-9)


@pytest.mark.parametrize(
    "theirs",
    [numpyro.infer.RenyiELBO(num_particles=2), numpyro.infer.TraceGraph_ELBO()],
    ids=lambda o: type(o).__name__,
)
def test_8_theirs_refuse_batch_normalisation(theirs):
    _, port = make_pair(CASE["hierarchical-norm"].model)
    svi = numpyro.infer.SVI(port.model, port.guide, numpyro.optim.Adam(1e-2), theirs)
    state = svi.init(key(), *pixels(0))
    with pytest.raises((NotImplementedError, ValueError), match="mutable state"):
        svi.update(state, *pixels(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [IWAE(2), DReG(2), CUBO(2.0, 2), TVO(2), RWS(2)], ids=lambda o: type(o).__name__
)
def test_8_ours_move_its_statistics(objective):
    _, port = make_pair(CASE["hierarchical-norm"].model)
    before = port.state_dict()

    def moved(x):
        run = objective.loss_with_mutable_state
        return run(key(), {}, port.model, port.guide, x)["mutable_state"]

    with training():
        state = jax.jit(moved)(*pixels(0))
    assert len(state) > 1
    assert not [name for name, held in state.items() if np.array_equal(held["value"], before[name])]
