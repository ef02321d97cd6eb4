"""Where Pyro's own ELBO classes are wrong, and this library is not: both are shown.

What Pyro gives stands here so that a mended version of it is noticed.
"""

from collections.abc import Callable
from typing import Any

import bounds
import every_draw
import pyro
import pyro.distributions as dist
import pytest
import torch
from every_draw import Given, of_states, sbn, values_of
from every_objective import LOSSES, assert_runs_as_a_module
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, ReweightedWakeSleep, TraceGraph_ELBO
from support import assert_same, gradients
from torch import Tensor

from ppl_vae import ELBO
from ppl_vae.inference import IWAE, VIMCO, Renyi
from ppl_vae.inference.objectives.iwae import log_mean_exp
from ppl_vae.inference.objectives.wake_sleep import RWS
from ppl_vae.models import SBN

WAKE = torch.tensor([[3, 7], [1, 0], [6, 2]])
"""Numbers of the states that three particles of two data are in."""
AVERAGE = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}


def of_guide(model: SBN) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if name.startswith("encoders")]


def of_model(model: SBN) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if not name.startswith("encoders")]


def left_by(loss_and_grads: Callable[[], Any], parameters: list[Tensor]) -> list[Tensor]:
    """The gradients that a loss of Pyro's leaves behind, zeros where it leaves none."""
    for parameter in parameters:
        parameter.grad = None
    with poutine.trace(param_only=True):  # as SVI does
        loss_and_grads()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def theirs(cls: Any, k: int, **settings: Any) -> Any:
    return cls(num_particles=k, max_plate_nesting=1, vectorize_particles=True, **settings)


@pytest.mark.parametrize("objective", [IWAE(2), VIMCO(2), Renyi(0.0, 2)])
def test_1_guides_of_discrete_latents_are_trained(objective: Any) -> None:
    model, x = sbn()
    renyi = theirs(RenyiELBO, 2, alpha=0)
    for seed in range(5):
        pyro.set_rng_seed(seed)
        run = lambda: renyi.loss_and_grads(model.model, model.guide, x)  # noqa: E731
        found = left_by(run, [*of_guide(model), *of_model(model)])
        assert not any(grad.any() for grad in found[: len(of_guide(model))])
        assert any(grad.any() for grad in found[len(of_guide(model)) :])
    ours = gradients(lambda: every_draw.loss(objective, model, x), of_guide(model))
    exactly = lambda: -every_draw.expected(bounds.log_mean_exp, model, x, 2)  # noqa: E731
    assert_same(ours, gradients(exactly, of_guide(model)))
    assert sum(grad.norm() for grad in ours[1:]) > 0.1


SLOPE, SCALE, NOISE = 0.1, 0.5, 0.6
SIZE, BATCH = 160, 16


class Minibatch:
    """z ~ N(0, 1), x ~ N(z, 0.6^2), of which a batch stands for all data."""

    def plate(self) -> Any:
        return pyro.plate("data", SIZE, subsample_size=BATCH, subsample=torch.arange(BATCH))

    def model(self, x: Tensor) -> None:
        with self.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    def guide(self, x: Tensor) -> None:
        with self.plate():
            pyro.sample("z", dist.Normal(SLOPE * x, SCALE))


def log_weights(x: Tensor, z: Tensor) -> Tensor:
    normal = torch.distributions.Normal
    log_p = normal(0.0, 1.0).log_prob(z) + normal(z, NOISE).log_prob(x)
    return log_p - normal(SLOPE * x, SCALE).log_prob(z)


def test_2_a_scaled_plate_multiplies_the_bound() -> None:
    pair, x = Minibatch(), 2.0 * torch.randn(BATCH, dtype=torch.double)
    factor, renyi = SIZE / BATCH, theirs(RenyiELBO, 2, alpha=0)
    z = torch.randn(2, BATCH, dtype=torch.double)
    log_w = log_weights(x, z)
    with Given({"z": z}):
        ours = IWAE(2).loss(pair.model, pair.guide, x)
        wrong = renyi.loss(pair.model, pair.guide, x)
    assert ours == pytest.approx(-factor * log_mean_exp(log_w).sum().item(), rel=1e-9)
    # It multiplies log weights, which makes the best particle of each datum the only one.
    assert wrong == pytest.approx(-log_mean_exp(factor * log_w).sum().item(), rel=1e-9)

    values, log_prob = bounds.nodes(200)
    at = log_weights(x, SLOPE * x + SCALE * values[:, None])
    of_ours, of_theirs = (
        -bounds.expected(bound, log_prob[:, None], at).sum().item()
        for bound in (
            lambda log_w: factor * log_mean_exp(log_w),
            lambda log_w: log_mean_exp(factor * log_w),
        )
    )
    assert of_ours > 1.05 * of_theirs  # more than one part in twenty is lost on average


def test_3_wake_sleep_has_weights_for_each_datum() -> None:
    """Pyro's have one sum for all data, so that one particle serves them all."""
    model, x = sbn()

    def by_hand(joint: bool) -> tuple[float, list[Tensor]]:
        log_q, log_w = (part.gather(0, WAKE) for part in of_states(model, x))
        of_weights = log_w.detach().sum(1, keepdim=True) if joint else log_w.detach()
        guide = -(of_weights.softmax(0) * log_q).sum()
        value = -bounds.log_mean_exp(of_weights).sum().item()
        return value, list(torch.autograd.grad(guide, of_guide(model)))

    rws = theirs(ReweightedWakeSleep, 3, insomnia=1.0)
    with Given(values_of(WAKE)):
        values = rws.loss(model.model, model.guide, x)
        run = lambda: rws.loss_and_grads(model.model, model.guide, x)  # noqa: E731
        wrong = left_by(run, of_guide(model))
        ours = gradients(
            lambda: RWS(3).differentiable_loss(model.model, model.guide, x), of_guide(model)
        )
    (value, exactly), (of_joint, joint) = by_hand(joint=False), by_hand(joint=True)
    assert ours[0].item() == pytest.approx(value, rel=1e-9)
    assert_same(ours[1:], exactly)
    assert isinstance(values, tuple)  # two losses, which SVI cannot add up
    assert values[0].item() == pytest.approx(of_joint, rel=1e-9)
    assert_same(wrong, joint)
    assert abs(value - of_joint) > 0.1
    assert max(float((a - b).abs().max()) for a, b in zip(exactly, joint, strict=True)) > 0.1


@pytest.mark.parametrize("cls", [RenyiELBO, TraceGraph_ELBO, ReweightedWakeSleep])
def test_4_three_of_pyros_are_no_modules(cls: Any) -> None:
    pair = Minibatch()
    with pytest.raises(AttributeError, match="differentiable_loss"):
        cls(num_particles=2)(pair.model, pair.guide)(torch.randn(BATCH))


@pytest.mark.parametrize("name", LOSSES)
def test_4_every_objective_is_a_module(name: str) -> None:
    assert_runs_as_a_module(LOSSES[name])


def test_7_a_last_batch_that_is_smaller_has_the_average_for_a_baseline() -> None:
    model, x = sbn()
    numbers = torch.tensor([3, 6])

    def marked(data: Tensor) -> None:
        with poutine.infer_config(config_fn=lambda site: {"baseline": AVERAGE}):
            model.guide(data)

    graph = TraceGraph_ELBO(max_plate_nesting=1)
    graph.loss_and_grads(model.model, marked, x)
    with pytest.raises(ValueError, match=r"Expected baseline at site z_[12]"):
        graph.loss_and_grads(model.model, marked, x[:1])

    ours = ELBO(baseline="average")
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-30}), loss=ours)
    with Given(values_of(numbers)):
        svi.step(x)
    with Given(values_of(numbers[:1])):
        svi.step(x[:1])
    log_w = of_states(model, x)[1].gather(0, numbers[None])[0]
    average = 0.9 * log_w.mean() + 0.1 * log_w[0]
    assert ours._state["baseline"].item() == pytest.approx(average.item(), rel=1e-6)
    found = gradients(lambda: every_draw.loss(ours, model, x[:1]), model.parameters())
    exactly = lambda: -every_draw.expected(lambda w: w.mean(-2), model, x[:1], 1)  # noqa: E731
    assert_same(found, gradients(exactly, model.parameters()))
