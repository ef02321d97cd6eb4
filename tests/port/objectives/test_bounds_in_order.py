"""The port's bounds in order and at their limits, without chance, and the signal of gradients."""

import every_draw
import numpy as np
import pytest
from every_draw import of_states, sbn, tuples, values_of
from port_support import jax, jnp, key, numpyro

from ppl_vae.numpyro.inference import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    TVO,
    VIMCO,
    DReG,
    Renyi,
)
from ppl_vae.numpyro.models import SBN
from ppl_vae.parity import float64

dist = numpyro.distributions
INF = float("inf")


@pytest.fixture(scope="module")
def exact():
    """A network in both backends, data: the expectation of a loss, of IWAE(k), log p(x)."""
    model, x = sbn()
    log_q, log_w = (part.detach() for part in of_states(model, x))
    with float64():
        port = SBN(every_draw.X_DIM, every_draw.Z_DIMS, key=key()).with_weights(model.state_dict())

    def expected(objective):
        each = tuples(objective.num_particles)
        prob = log_q[each].sum(1).exp().T.reshape(-1).numpy()
        copies = x.repeat_interleave(len(each), 0).numpy()
        values = {n: v.numpy() for n, v in values_of(each.T.repeat(1, len(x))).items()}
        given = numpyro.handlers.substitute(port.guide, data=values)
        programs = [numpyro.handlers.scale(program, scale=prob) for program in (port.model, given)]
        with float64():
            return -float(objective.differentiable_loss(*programs, copies, key=key()))

    def weighted(k):
        each = tuples(k)
        return (log_q[each].sum(1).exp() * log_w[each].exp().mean(1).log()).sum().item()

    return expected, weighted, (log_q + log_w).logsumexp(0).sum().item()


@pytest.mark.slow
def test_order(exact):
    expected, weighted, log_p = exact
    elbo = weighted(1)
    levels = [expected(bound) for bound in (ELBO(), CIWAE(0.5, 2), IWAE(2), IWAE(3))]
    assert levels[0] == pytest.approx(elbo, abs=1e-10)
    assert min(np.diff([*levels, log_p])) > 1e-3
    alphas = (30.0, 2.0, 1 + 1e-7, 0.5, 0.0, -1.0, -30.0, -INF)
    renyi = [expected(Renyi(alpha, 2)) for alpha in alphas]
    assert min(np.diff(renyi)) > 1e-3
    assert renyi[2] == pytest.approx(elbo, abs=1e-5)
    assert expected(TVO(3, 1)) == pytest.approx(elbo, abs=1e-10)
    # An upper bound is the loss itself.
    assert min(-expected(TVO(3, 4, "upper")), -expected(CUBO(2.0, 3))) > elbo


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objectives", "k"),
    [
        ((ELBO(3), IWAE(1), CIWAE(1.0, 3), MIWAE(3, 1), Renyi(0.5, 1), Renyi(-INF, 1)), 1),
        ((IWAE(2), MIWAE(2, 2), VIMCO(2), MIWAE(1, 2), CIWAE(0.0, 2)), 2),
        ((IWAE(3), VIMCO(3, "arithmetic"), PIWAE(1, 3), RWS(3), Renyi(0.0, 3)), 3),
    ],
    ids=["elbo", "two", "three"],
)
def test_limits_have_the_value_of_the_importance_weighted_bound(exact, objectives, k):
    expected, weighted, _ = exact
    for objective in objectives:
        assert expected(objective) == pytest.approx(weighted(k), abs=1e-10), objective


KS, COPIES = (8, 16, 32, 64), 20_000


def signal(objective):
    """|mean| / standard deviation of the gradient by the guide's shift, over copies of a datum."""
    x = jnp.full(COPIES, 0.7)

    def loss(shift):
        def model(x):
            with numpyro.plate("data", COPIES):
                z = numpyro.sample("z", dist.Normal(0.0, 1.0))
                numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with numpyro.plate("data", COPIES):
                numpyro.sample("z", dist.Normal(x / 2 + shift, (2 / 3) ** 0.5))

        return objective.differentiable_loss(model, guide, x, key=key(1))

    grad = jax.jit(jax.grad(loss))(jnp.full(COPIES, 0.5))
    return float(jnp.abs(grad.mean()) / grad.std())


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "slope"), [(IWAE, -0.5), (DReG, 0.5)])
def test_the_signal_of_the_guides_gradient(objective, slope):
    """It goes like 1 / sqrt(K) (Rainforth et al. 2018, theorem 1), or sqrt(K) (Tucker et al.)."""
    found = [signal(objective(k)) for k in KS]
    assert np.polyfit(np.log(KS), np.log(found), 1)[0] == pytest.approx(slope, abs=0.1)
