"""The order and the limits of the bounds, without chance, and the signal of their gradients."""

from typing import Any

import bounds
import every_draw
import linear_gaussian as exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from every_draw import Given, of_states, sbn, values_of
from pyro import poutine
from torch import Tensor

from ppl_vae import ELBO, VAE
from ppl_vae.inference import CIWAE, CUBO, IWAE, MIWAE, TVO, VIMCO, DReG, Renyi
from ppl_vae.inference.objectives.piwae import PIWAE
from ppl_vae.inference.objectives.wake_sleep import RWS
from ppl_vae.models import SBN, DiagNormalNet

INF = float("inf")


def assert_in_order(levels: list[float], gap: float = 1e-3) -> None:
    assert min(np.diff(levels)) > gap, levels


def expected(objective: Any, model: SBN, x: Tensor) -> float:
    """The expected bound, by enumeration of all draws of all particles."""
    with torch.no_grad():
        return -every_draw.loss(objective, model, x).item()


def test_expected_bounds_of_few_particles() -> None:
    model, x = sbn()
    log_q, log_w = of_states(model, x)
    log_p = (log_q + log_w).logsumexp(0).sum().item()
    elbo = (log_q.exp() * log_w).sum().item()
    weighted = [ELBO(), CIWAE(0.5, 2), IWAE(2), IWAE(3), IWAE(4)]
    levels = [expected(objective, model, x) for objective in weighted]
    assert levels[0] == pytest.approx(elbo, abs=1e-10)
    assert_in_order([*levels, log_p])
    alphas = (30.0, 2.0, 1 + 1e-7, 0.5, 0.0, -1.0, -30.0, -INF)
    renyi = [expected(Renyi(alpha, 2), model, x) for alpha in alphas]
    assert_in_order(renyi)
    assert renyi[2] == pytest.approx(elbo, abs=1e-5)
    assert renyi[4] == pytest.approx(levels[2], abs=1e-10)


@pytest.mark.parametrize(
    ("objectives", "k"),
    [
        (
            (ELBO(3), IWAE(1), CIWAE(1.0, 3), MIWAE(3, 1), Renyi(0.5, 1), Renyi(-INF, 1)),
            1,
        ),
        ((TVO(3, 1), ELBO(2, baseline="average")), 1),
        ((IWAE(2), MIWAE(2, 2), VIMCO(2), MIWAE(1, 2), CIWAE(0.0, 2)), 2),
        ((IWAE(3), VIMCO(3, "arithmetic"), PIWAE(1, 3), RWS(3), Renyi(0.0, 3)), 3),
        ((PIWAE(2, 2), PIWAE(4, 1), RWS(4)), 4),
    ],
    ids=["elbo", "elbo-without-iw", "two", "three", "four"],
)
def test_limits_have_the_value_of_the_importance_weighted_bound(objectives: Any, k: int) -> None:
    model, x = sbn()
    with torch.no_grad():
        exactly = every_draw.expected(bounds.log_mean_exp, model, x, k).item()
    for objective in objectives:
        assert expected(objective, model, x) == pytest.approx(exactly, abs=1e-10)


def test_bounds_of_as_many_particles_as_one_likes() -> None:
    """With a uniform q and every state for a particle, sums over particles are expectations."""
    model, x = sbn()
    for name, weight in model.named_parameters():
        if name.startswith("encoders"):
            weight.detach().zero_()
    log_q, log_w = (part.detach() for part in of_states(model, x))
    posterior = (log_q + log_w).softmax(0)
    log_p = (log_q + log_w).logsumexp(0).sum().item()

    def value(objective: Any) -> float:
        with Given(values_of(torch.arange(8)[:, None].expand(8, len(x)))):
            loss = float(objective.loss(model.model, model.guide, x))
        upper = isinstance(objective, CUBO) or getattr(objective, "bound", "") == "upper"
        return loss if upper else -loss

    below = [Renyi(3.0, 8), ELBO(8), TVO(8, 2), TVO(8, 5), IWAE(8)]
    above = [TVO(8, 5, "upper"), TVO(8, 2, "upper"), TVO(8, 1, "upper")]
    levels = [value(objective) for objective in (*below, *above)]
    assert_in_order(levels)
    assert levels[4] == pytest.approx(log_p, abs=1e-10)
    chi = [value(CUBO(n, 8)) for n in (1.001, 1.5, 2.0, 4.0)]
    assert_in_order([log_p, *chi], gap=1e-5)
    closed = {
        ELBO(8): log_p - (log_q.exp() * (log_q - posterior.log())).sum().item(),
        TVO(8, 1): levels[1],
        TVO(8, 1, "upper"): log_p + (posterior * (posterior.log() - log_q)).sum().item(),
        CUBO(2.0, 8): ((log_q + 2 * log_w).logsumexp(0) / 2).sum().item(),
        Renyi(-1.0, 8): chi[2],
        Renyi(-INF, 8): log_w.amax(0).sum().item(),
    }
    for objective, exactly in closed.items():
        assert value(objective) == pytest.approx(exactly, abs=1e-10), objective


class OnGrid(poutine.messenger.Messenger):
    """z = loc + scale * number."""

    def __init__(self, number: Tensor) -> None:
        super().__init__()
        self.number = number

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "z" and msg["value"] is None:
            q = msg["fn"].base_dist
            msg["value"] = q.loc + q.scale * self.number


def test_a_linear_gaussian_pair_by_quadrature() -> None:
    model = VAE(2, 1, (), encoder=DiagNormalNet(2, 1, ()), decoder=DiagNormalNet(1, 2, ()))
    model, x = model.double(), torch.randn(3, 2, dtype=torch.double)
    torch.nn.init.zeros_(model.decoder.log_var.weight)
    numbers, log_prob = bounds.nodes(30)

    def value(objective: Any) -> float:
        grid = [torch.arange(30)] * objective.num_particles
        each = torch.cartesian_prod(*grid).reshape(-1, objective.num_particles)
        prob = log_prob[each].sum(1).exp().repeat(len(x))
        copies = x.repeat_interleave(len(each), 0)
        at = numbers[each].T.repeat(1, len(x))[..., None]
        programs = [poutine.scale(program, scale=prob) for program in (model.model, model.guide)]
        with OnGrid(at if len(at) > 1 else at[0]):
            return -float(objective.loss(*programs, copies))

    levels = [value(objective) for objective in (ELBO(), CIWAE(0.5, 2), IWAE(2), IWAE(3))]
    assert levels[0] == pytest.approx(exact.bound(model, x).sum().item(), abs=1e-6)
    assert_in_order([*levels, exact.log_evidence(model, x).sum().item()])


COPIES, KS = 20_000, (8, 16, 32, 64)


def signal(objective: Any) -> float:
    """|mean| / standard deviation of the gradient by the guide's shift b, over copies of a datum.

    The pair of Rainforth et al. 2018, section 4: z ~ N(mu, 1), x ~ N(z, 1), and the guide
    N(x / 2 + b, 2/3) with b off its best value, mu / 2 = 0. Each copy has a b of its own.
    """
    x, b = torch.full((COPIES,), 0.7), torch.full((COPIES,), 0.5, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", COPIES):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", COPIES):
            pyro.sample("z", dist.Normal(x / 2 + b, (2 / 3) ** 0.5))

    (grad,) = torch.autograd.grad(objective.differentiable_loss(model, guide, x), b)
    return (grad.mean().abs() / grad.std()).item()


@pytest.mark.parametrize(("objective", "slope"), [(IWAE, -0.5), (DReG, 0.5)])
def test_the_signal_of_the_guide_s_gradient(objective: Any, slope: float) -> None:
    """It goes like 1 / sqrt(K) (Rainforth et al. 2018, theorem 1), or sqrt(K) (Tucker et al.)."""
    found = [signal(objective(k)) for k in KS]
    fitted = np.polyfit(np.log(KS), np.log(found), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.1)
