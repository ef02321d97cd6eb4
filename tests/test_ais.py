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
from pyro import poutine
from scipy.special import gammaln, logsumexp
from scipy.stats import nbinom, norm
from torch import Tensor, nn

from ppl_vae.inference import ais, log_likelihood
from ppl_vae.inference.bdmc import bdmc
from ppl_vae.inference.hmc import State, leapfrog, move
from ppl_vae.inference.tempered import Tempered, tempered
from ppl_vae.measures.estimates import Estimate
from ppl_vae.models import Model
from ppl_vae.settings.annealing import Annealing, sigmoidal


class Program(Model):
    """A model alone, in double precision."""

    def __init__(self, program: Callable[..., None], x_dim: int = 1) -> None:
        super().__init__()
        self.x_dim, self.program = x_dim, program
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.double))

    def model(self, *data: Tensor) -> None:
        self.program(*data)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.double)


def two_layers(x: Tensor) -> None:
    """x ~ N(0, 2.5^2 + 0.3^2 + 0.5^2) per entry, but for the means."""
    with pyro.plate("data", len(x)):
        z_2 = pyro.sample("z_2", dist.Normal(zeros(1), 1.0).to_event(1))
        z_1 = pyro.sample("z_1", dist.Normal(2.5 * z_2[..., 0] + 1, 0.3))
        pyro.sample("x", dist.Normal(z_1, 0.5), obs=x[:, 0])


def rates(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.5 * torch.ones_like(x[:, 0]), 0.7))
        pyro.sample("x", dist.Poisson(rate), obs=x[:, 0])


def shares(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        share = pyro.sample(
            "share", dist.Dirichlet(torch.tensor([0.9, 2.0, 3.5], dtype=torch.double))
        )
        pyro.sample("x", dist.Multinomial(probs=share, validate_args=False), obs=x)


def below(x: Tensor) -> None:
    """A support that depends on another latent variable."""
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.LogNormal(torch.zeros_like(x[:, 0]), 0.5))
        z = pyro.sample("z", dist.Uniform(-top, 2 * top))
        pyro.sample("x", dist.Normal(z, 0.6), obs=x[:, 0])


def inner(x: Tensor) -> None:
    """Three latents in a plate within a datum, and one for all of them."""
    with pyro.plate("data", len(x)):
        m = pyro.sample("m", dist.Normal(zeros(), 1.0))
        with pyro.plate("inner", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(m, 0.8))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)


def clusters(x: Tensor) -> None:
    """The class, which is summed over, says where z is."""
    with pyro.plate("data", len(x)):
        probs = torch.tensor([0.3, 0.7], dtype=torch.double)
        y = pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(torch.tensor([-0.5, 0.8], dtype=torch.double)[y], 0.6))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def masked(x: Tensor) -> None:
    """What is masked does not count, and a scale is not that of the density."""
    with pyro.plate("data", len(x)), poutine.scale(scale=3.0):
        z = pyro.sample("z", dist.Normal(zeros(), 1.0))
        with poutine.mask(mask=x[:, 0] < 2):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])


def log_p_of_two_layers(x: np.ndarray) -> np.ndarray:
    return norm.logpdf(x[:, 0], 1, (2.5**2 + 0.3**2 + 0.5**2) ** 0.5)


def log_p_of_rates(x: np.ndarray) -> np.ndarray:
    return nbinom.logpmf(x[:, 0], 2.5, 0.7 / 1.7)


def log_p_of_shares(x: np.ndarray) -> np.ndarray:
    a, n = np.array([0.9, 2.0, 3.5]), x.sum(-1)
    log_p = gammaln(a.sum()) + gammaln(n + 1) - gammaln(n + a.sum())
    return log_p + (gammaln(x + a) - gammaln(a) - gammaln(x + 1)).sum(-1)


def log_p_of_below(x: np.ndarray) -> np.ndarray:
    """The integral over z is one of the normal distribution, that over top a sum."""
    log_top = np.linspace(-4, 4, 4001)
    top = np.exp(log_top)[:, None]
    over_z = (norm.cdf((2 * top - x.T) / 0.6) - norm.cdf((-top - x.T) / 0.6)) / (3 * top)
    weight = norm.pdf(log_top, 0, 0.5) * (log_top[1] - log_top[0])
    return np.log(weight @ over_z)


def log_p_of_inner(x: np.ndarray) -> np.ndarray:
    covariance = np.eye(3) * (0.8**2 + 0.5**2) + 1
    square = (x @ np.linalg.inv(covariance) * x).sum(-1)
    return -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])


def log_p_of_clusters(x: np.ndarray) -> np.ndarray:
    spread = (0.6**2 + 0.5**2) ** 0.5
    return logsumexp(norm.logpdf(x, [-0.5, 0.8], spread) + np.log([0.3, 0.7]), axis=-1)


def log_p_of_masked(x: np.ndarray) -> np.ndarray:
    return np.where(x[:, 0] < 2, norm.logpdf(x[:, 0], 0, 1.25**0.5), 0)


COLUMN = [[-1.0], [0.4], [3.0]]
EXACT = {
    "two_layers": (two_layers, log_p_of_two_layers, COLUMN),
    "rates": (rates, log_p_of_rates, [[0.0], [3.0], [11.0]]),
    "shares": (shares, log_p_of_shares, [[1.0, 1.0, 2.0], [0.0, 0.0, 4.0], [4.0, 0.0, 0.0]]),
    "below": (below, log_p_of_below, COLUMN),
    "inner": (inner, log_p_of_inner, [[-1.0, 0.2, 1.0], [2.0, 2.0, 2.5]]),
    "clusters": (clusters, log_p_of_clusters, COLUMN),
    "masked": (masked, log_p_of_masked, COLUMN),
}
FEW: dict[str, Any] = {"method": "ais", "leapfrog_steps": 3, "adaptation": 20}


def assert_unbiased_weights(estimate: Estimate, truth: Any, precision: float) -> None:
    """The mean of w is p(x), within standard errors small enough that a wrong one is seen."""
    assert (estimate.errors < precision).all(), estimate.errors
    ratio = np.exp(estimate.values - np.asarray(truth))  # its standard error: estimate.errors
    assert (abs(ratio - 1) < 4 * estimate.errors + 1e-5).all(), (ratio, estimate.errors)


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


def test_backwards_makes_the_moves_of_forwards_in_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _, _ = linear_target(chains=2)
    annealing = Annealing(2, 6, 3)
    sizes = torch.linspace(0.1, 0.5, 5).double()[:, None]
    moves: list[tuple[float, Tensor]] = []

    def recorded(target: Any, state: State, beta: float, size: Tensor, steps: int) -> Any:
        assert steps == 3
        moves.append((beta, size))
        return move(target, state, beta, size, steps)

    monkeypatch.setattr(ais, "move", recorded)
    with torch.no_grad():
        for run in (ais.forwards, ais.backwards):
            run(target, target.start(), sizes, annealing)
    assert moves[:5] == moves[:4:-1]
    assert moves[:5] == list(zip(annealing.betas()[1:-1], sizes, strict=True))


def conditional(c: Tensor, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


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
