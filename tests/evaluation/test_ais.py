"""Annealed importance sampling and its moves, where log p(x) is known."""

import math
from collections.abc import Callable
from typing import Any

import linear_gaussian as exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ais_support import (
    EXACT,
    FEW,
    Program,
    assert_unbiased_weights,
    conditional,
    inner,
    zeros,
)
from pyro import poutine
from scipy.stats import norm
from torch import Tensor

from ppl_vae.inference import log_likelihood
from ppl_vae.inference.evaluation import ais
from ppl_vae.inference.evaluation.bdmc import bdmc
from ppl_vae.inference.evaluation.hmc import State, leapfrog, move
from ppl_vae.inference.evaluation.tempered import Tempered, tempered
from ppl_vae.models import Model
from ppl_vae.shared.evaluation.annealing import Annealing, sigmoidal


@pytest.mark.parametrize("name", EXACT)
def test_weights_are_unbiased_at_few_temperatures(name: str) -> None:
    program, log_p, rows = EXACT[name]
    x = np.array(rows)
    model = Program(program, x.shape[1])
    settings = {**FEW, "max_plate_nesting": 2 if name == "inner" else 1}
    estimate = log_likelihood(model, x, temperatures=5, chains=10_000, **settings)
    assert_unbiased_weights(estimate, log_p(x), precision=0.05)


def test_they_are_for_a_pair_too_whatever_its_guide() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    estimate = log_likelihood(model, x, temperatures=4, chains=10_000, **FEW)
    assert_unbiased_weights(estimate, exact.log_evidence(model, x).detach(), precision=0.03)


@pytest.mark.slow
def test_with_many_temperatures_few_chains_are_enough() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    truth = exact.log_evidence(model, x).detach().numpy()
    estimate = log_likelihood(model, x, temperatures=300, chains=100, **FEW)
    assert (abs(estimate.values - truth) < np.minimum(3 * estimate.errors, 0.1)).all()
    assert abs(estimate.mean - truth.mean()) < 0.05
    with torch.no_grad():  # a guide that is far off, and too sure of it
        model.encoder.loc.bias.add_(2.0)
        model.encoder.log_var.bias.fill_(-4.0)
    by_guide = log_likelihood(model, x, k=1000)
    assert (by_guide.values < truth - 1).all()
    again = log_likelihood(model, x, temperatures=300, chains=100, **FEW)
    np.testing.assert_array_equal(again.values, estimate.values)


def test_one_temperature_is_simple_monte_carlo() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    estimate = log_likelihood(model, x, temperatures=1, chains=100_000, **FEW)
    assert_unbiased_weights(estimate, exact.log_evidence(model, x).detach(), precision=0.03)


def test_one_chain_and_batches() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    before = torch.get_rng_state()
    runs = [log_likelihood(model, x, temperatures=5, chains=1, batch_size=3, **FEW) for _ in "ab"]
    assert torch.equal(before, torch.get_rng_state())
    assert (len(runs[0]), np.isnan(runs[0].errors).all()) == (4, True)
    np.testing.assert_array_equal(*(run.values for run in runs))


@torch.no_grad()
def linear_target(chains: int) -> tuple[Tempered, torch.distributions.MultivariateNormal, Any]:
    """The densities for a datum, the distribution at beta = 1, and log p(x)."""
    model, x = exact.conjugate(exact=False), exact.data()[:1]
    target = Tempered(model.model, x, chains=chains)
    return target, exact.posterior(model, x), exact.log_evidence(model, x)


@torch.no_grad()
def test_a_move_leaves_the_density_as_it_is() -> None:
    target, posterior, _ = linear_target(chains=200_000)
    start = posterior.sample((200_000,))
    state = State(start, target.terms(start))
    after, probability = move(target, state, 1.0, torch.tensor([0.6], dtype=torch.double), 4)
    assert 0.4 < probability.mean() < 0.8  # so that accepting all, or other ones, is seen
    assert ((after.position != start).any(-1) == (after.terms[1] != state.terms[1])).all()
    whitened = (after.position - posterior.mean) @ torch.linalg.cholesky(
        posterior.precision_matrix[0]
    )
    assert (whitened.mean((0, 1)).abs() < 4 / 200_000**0.5).all()
    assert ((whitened**2).mean((0, 1)) - 1).abs().max() < 4 * (2 / 200_000) ** 0.5
    moved = (after.position != start).any(-1).double()
    assert abs(moved.mean() - probability.mean()) < 4 * moved.std() / 200_000**0.5
    for now, there in zip(after.terms, target.terms(after.position), strict=True):
        torch.testing.assert_close(now, there)


def test_a_trajectory_to_infinity_is_rejected() -> None:
    target, _, _ = linear_target(chains=3)
    start = target.start()
    with pyro.validation_enabled(False):
        state = State(start, target.terms(start))
        after, probability = move(target, state, 1.0, torch.tensor([1e4], dtype=torch.double), 100)
    assert torch.equal(after.position, start)
    assert (probability == 0).all()


def test_the_leapfrog_goes_back_and_keeps_volume() -> None:
    target, _, _ = linear_target(chains=5)
    position, momentum = (torch.randn(5, 1, 2, dtype=torch.double) for _ in range(2))

    def run(position: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.full((1, 1, 1), 0.3).double()
        return leapfrog(lambda at: target.gradient(at, 0.7), position, momentum, size, 6)

    there, after = run(position, momentum)
    back, before = run(there, -after)
    torch.testing.assert_close(back, position, atol=1e-10, rtol=0)
    torch.testing.assert_close(-before, momentum, atol=1e-10, rtol=0)
    # The map is linear in four numbers: its matrix from what it does to each of them and to none.
    ends = torch.cat(run(*torch.eye(5, 4).double()[:, None].chunk(2, -1)), -1)[:, 0]
    assert torch.linalg.det(ends[:4] - ends[4]).item() == pytest.approx(1, abs=1e-9)
    assert (there - position).abs().min() > 1e-2

    def energy(position: Tensor, momentum: Tensor) -> Tensor:
        return 0.5 * (momentum**2).sum(-1) - tempered(target.terms(position), 0.7)

    def error(size: float) -> float:
        gradient = lambda at: target.gradient(at, 0.7)  # noqa: E731
        ends = leapfrog(gradient, position, momentum, zeros(1, 1, 1) + size, round(0.6 / size))
        return (energy(*ends) - energy(position, momentum)).abs().max().item()

    assert 3 < error(0.1) / error(0.05) < 5  # of second order in the step size


def test_the_gradient_is_that_of_the_density() -> None:
    program, _, rows = EXACT["clusters"]
    target = Tempered(program, torch.tensor(rows), chains=4)
    at = target.start().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: tempered(target.terms(u), 0.3), at)
    (expected,) = torch.autograd.grad(tempered(target.terms(at), 0.3).sum(), at)
    torch.testing.assert_close(target.gradient(at, 0.3), expected)


@pytest.mark.parametrize("name", EXACT)
def test_positions_are_the_latents_without_constraints(name: str) -> None:
    """Chains that start at a draw of the model have its log density."""
    program, _, rows = EXACT[name]
    x = torch.tensor(rows, dtype=torch.double)
    target = Tempered(program, x, chains=2, max_plate_nesting=2 if name == "inner" else 1)
    nodes: Any = poutine.trace(program).get_trace(x).nodes
    names = target.names if name != "clusters" else ["y", *target.names]
    position = target.start({site: nodes[site]["value"] for site in names})
    log_prior, log_x = target.terms(position)
    assert position.shape[:2] == (2, len(x))
    for k in range(2):  # a chain is where the other is
        torch.testing.assert_close(position[k], position[0])

    def log_prob(site: str) -> Tensor:
        node = nodes[site]
        value: Tensor = node["fn"].log_prob(node["value"])
        value = value if node["mask"] is None else value * node["mask"]
        return value.sum(0) if value.dim() > 1 else value

    if name == "clusters":  # both classes are scored
        log_x, log_prior = (
            part.expand(2, 2, -1).gather(0, nodes["y"]["value"].expand(1, 2, -1))[0]
            for part in (log_x[:, :1] if log_x.dim() > 2 else log_x, log_prior)
        )
    torch.testing.assert_close(log_x.expand(2, -1)[0], log_prob("x"))
    unbounded = {"two_layers", "inner", "clusters", "masked"}
    if name in unbounded:  # else there is the volume, too
        torch.testing.assert_close(log_prior[0], sum(log_prob(site) for site in names))


def test_step_sizes_are_found() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    target = Tempered(model.model, x, chains=100)
    annealing = Annealing(100, 100, 3, 60)
    accepted = []
    with torch.no_grad():
        sizes = ais.step_sizes(target, target.start(), annealing)
        assert sizes.shape == (99, 4)
        state = State(target.start(), target.terms(target.start()))
        for beta, size in zip(annealing.betas()[1:-1], sizes, strict=True):
            state, probability = move(target, state, float(beta), size, 3)
            accepted.append(probability.mean().item())
    assert np.mean(accepted[20:]) == pytest.approx(0.8, abs=0.05)


def test_temperatures() -> None:
    betas = sigmoidal(10)
    assert (betas[0], betas[-1]) == (0, 1)
    np.testing.assert_allclose(betas + betas[::-1], 1)
    assert (np.diff(betas) > 0).all()
    s = [1 / (1 + math.exp(-4 * t)) for t in (-1, -0.8)]
    assert betas[1] == pytest.approx((s[1] - s[0]) / (1 - 2 * s[0]))
    matrix = Annealing(temperatures=50, adaptation=10).interpolation()
    assert matrix.shape == (49, 9)
    line = matrix @ (np.arange(1, 10) / 10)
    np.testing.assert_allclose(line, np.clip(np.arange(1, 50) / 50, 0.1, 0.9))


def simulated(model: Model, *data: Tensor) -> Tensor:
    """What `bdmc` with seed 0 simulates in one batch."""
    pyro.set_rng_seed(0)
    return model.simulate(*data)["x"]


def test_bidirectional_monte_carlo_encloses_log_p() -> None:
    model = exact.conjugate(exact=False)
    x = simulated(model, zeros(100, exact.X_DIM))
    truth = exact.log_evidence(model, x).detach().numpy()
    settings: dict[str, Any] = {"chains": 8, "leapfrog_steps": 3, "adaptation": 50}
    good = bdmc(model, 100, temperatures=200, **settings)
    assert abs(good.lower.values - truth).mean() < 0.2
    assert abs(good.lower.mean - truth.mean()) < 0.05
    assert abs(good.upper.mean - truth.mean()) < 0.05
    poor = bdmc(model, 100, temperatures=6, **{**settings, "chains": 2})
    below, above = truth - poor.lower.values, poor.upper.values - truth
    for gap in (below, above):
        assert gap.mean() > 3 * gap.std() / 10  # 100 data
    np.testing.assert_allclose(poor.gap.values, below + above)
    assert poor.gap.mean > good.gap.mean
    assert np.isnan(poor.upper.errors).all()
    assert np.isfinite(poor.lower.errors).all()


def test_backward_weights_are_unbiased_for_one_over_p() -> None:
    """Of chains that begin at independent exact draws."""
    target, posterior, log_p = linear_target(chains=20_000)
    annealing = Annealing(20_000, 20, 3, 20)
    with torch.no_grad():
        sizes = ais.step_sizes(target, target.start(), annealing)
        log_w = ais.backwards(target, posterior.sample((20_000,)), sizes, annealing)
    assert_unbiased_weights(ais.estimate(log_w), -log_p, precision=0.05)


def test_backwards_makes_the_moves_of_forwards_in_reverse() -> None:
    target, _, _ = linear_target(chains=2)
    annealing = Annealing(2, 6, 3)
    sizes = torch.linspace(0.1, 0.5, 5).double()[:, None]
    moves: list[tuple[float, Tensor]] = []

    def recorded(target: Any, state: State, beta: float, size: Tensor, steps: int) -> Any:
        assert steps == 3
        moves.append((beta, size))
        return move(target, state, beta, size, steps)

    with torch.no_grad():
        for run in (ais.forwards, ais.backwards):
            run(target, target.start(), sizes, annealing, recorded)
    assert moves[:5] == moves[:4:-1]
    assert moves[:5] == list(zip(annealing.betas()[1:-1], sizes, strict=True))


def test_bidirectional_monte_carlo_given_conditions() -> None:
    model, c = Program(conditional), torch.linspace(-9, 9, 30)[:, None].double()
    x = simulated(model, c, zeros(30, 1)).numpy()
    truth = norm.logpdf(x, c, 1.25**0.5)[:, 0]
    settings: dict[str, Any] = {"chains": 16, "leapfrog_steps": 3, "adaptation": 50}
    found = bdmc(model, (c, zeros(30, 1)), temperatures=100, **settings)
    for bound in (found.lower, found.upper):
        assert abs(bound.values - truth).max() < 0.5
        assert abs(bound.mean - truth.mean()) < 0.1


def discrete(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(y.sum(-1), 1.0), obs=x[:, 0])


def shared(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(zeros(), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def masked_latent(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        with poutine.mask(mask=x[:, 0] < 2):
            z = pyro.sample("z", dist.Normal(zeros(), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def no_latent(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(zeros(), 1.0), obs=x[:, 0])


def no_bijection(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        component = dist.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), component)
        z = pyro.sample("z", mixture)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (discrete, r"site 'y' should be continuous or marked infer=\{'enumerate': 'parallel'\}"),
        (shared, "site 'z' should lie in the data plate, but it belongs to all data"),
        (masked_latent, "site 'z' should not have a mask, had one"),
        (no_latent, "model should have a latent site that is not enumerated, had none"),
        (no_bijection, "site 'z' should have a support that biject_to knows"),
        (inner, "max_plate_nesting should be at least 2 for"),
    ],
)
def test_what_cannot_be_annealed_is_refused(program: Callable[..., None], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        log_likelihood(Program(program), torch.ones(2, 3).double(), method="ais")
    by_weights = program in (discrete, masked_latent, no_latent)
    assert str(caught.value).endswith(": use method='iw'") == by_weights
    with pytest.raises(ValueError, match=says) as caught:
        bdmc(Program(program, 3), 2)
    assert "method" not in str(caught.value)  # it has no such argument


@pytest.mark.parametrize("name", ["chains", "temperatures", "leapfrog_steps"])
def test_wrong_settings_are_named(name: str) -> None:
    model = exact.conjugate(exact=True)
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} should be a whole number of at least 1, was 0"):
        log_likelihood(model, exact.data(), method="ais", **wrong)
    with pytest.raises(ValueError, match=f"{name} should be a whole number of at least 1, was 0"):
        bdmc(model, **wrong)
    with pytest.raises(ValueError, match="data should be a whole number of at least 1, was 0"):
        bdmc(model, 0)
