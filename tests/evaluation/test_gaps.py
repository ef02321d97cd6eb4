"""Approximation and amortisation gaps, where they are known."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import linear_gaussian as exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ais_support import (
    clusters,
    inner,
    log_p_of_clusters,
    log_p_of_inner,
    log_p_of_rates,
    rates,
)
from gaps_support import FAST, assert_near, correlated, double, factorised_gap
from scipy.special import gammaln
from torch import Tensor, nn

from ppl_vae.data import digits
from ppl_vae.inference import ELBO, fit, gaps, log_likelihood
from ppl_vae.inference.evaluation import local_posteriors
from ppl_vae.inference.evaluation.local_posteriors import LOCAL, Gaussian
from ppl_vae.models import VAE, Model
from ppl_vae.shared.evaluation.estimates import Estimate, bounds
from ppl_vae.shared.evaluation.gaps import Gaps, highest
from ppl_vae.shared.evaluation.local_fit import LocalFit


class Pair(Model):
    """A model and a guide as functions, in double precision."""

    def __init__(self, program: Callable[..., None], guide: Callable[..., None], x_dim: int = 1):
        super().__init__()
        self.x_dim, self.program, self.posterior = x_dim, program, guide
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.double))

    def model(self, *data: Tensor) -> None:
        self.program(*data)

    def guide(self, *data: Tensor) -> None:
        self.posterior(*data)


def test_gaps_of_a_linear_gaussian_pair() -> None:
    model, x = correlated(), exact.data()
    found = gaps(model, x, ("full", "gaussian"), seed=1, **FAST)
    gap = factorised_gap(exact.posterior(model, x).precision_matrix[0].detach())
    assert gap > 0.1
    log_p, bound = (f(model, x).detach().numpy() for f in (exact.log_evidence, exact.bound))
    np.testing.assert_allclose(found.log_likelihood.values, log_p, atol=1e-6)
    np.testing.assert_allclose(found.local["full"].values, log_p, atol=1e-6)
    np.testing.assert_allclose(found.approximation["full"].values, 0, atol=1e-6)
    assert_near(found.approximation["gaussian"], gap, slack=2e-3)
    assert_near(found.elbo, bound, slack=0, error=0.1)
    assert_near(found.total, log_p - bound, slack=0, error=0.1)
    assert_near(found.amortisation["full"], log_p - bound, slack=0, error=0.1)
    assert_near(found.amortisation["gaussian"], log_p - gap - bound, slack=2e-3, error=0.1)


def test_there_is_no_gap_where_the_guide_is_the_posterior() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    found = gaps(model, x, ("gaussian",), **{**FAST, "k": 100})
    np.testing.assert_allclose(found.total.values, 0, atol=1e-6)
    for gap in (found.approximation["gaussian"], found.amortisation["gaussian"]):
        np.testing.assert_allclose(gap.values, 0, atol=1e-5)
    assert str(found).count("no gap beyond the noise") == 2


def inner_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("m", dist.Normal(0.5 * x.mean(-1), 0.6))
        with pyro.plate("inner", 3, dim=-2):
            pyro.sample("z", dist.Normal(0.8 * x.T, 0.5))


def test_several_sites_and_a_plate_within_a_datum() -> None:
    """Their posterior is Gaussian, of all four latent numbers together."""
    x = double([[-1.0, 0.2, 1.0], [2.0, 2.0, 2.5]])
    pair = Pair(inner, inner_guide, 3)
    found = gaps(pair, x, ("gaussian", "full"), max_plate_nesting=2, **FAST)
    precision = torch.diag(double([1 + 3 / 0.8**2, *[1 / 0.8**2 + 1 / 0.5**2] * 3]))
    precision[0, 1:] = precision[1:, 0] = -1 / 0.8**2
    log_p = log_p_of_inner(x.numpy())
    np.testing.assert_allclose(found.local["full"].values, log_p, atol=1e-6)
    assert factorised_gap(precision) > 0.1
    assert_near(found.approximation["gaussian"], factorised_gap(precision), slack=2e-3)
    assert (found.amortisation["gaussian"].values > 0.05).all()


def rate_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.LogNormal((x[:, 0] + 1).log() - 0.3, 0.4))


def test_a_site_with_a_constraint() -> None:
    """The posterior Gamma(a, b), of which log rate has the nearest normal s^2 = 1/a."""
    x = double([[0.0], [3.0], [11.0]])
    found = gaps(Pair(rates, rate_guide), x, ("gaussian",), **FAST)
    a, b = x[:, 0].numpy() + 2.5, 1.7
    loc, entropy = np.log(a / b) - 0.5 / a, 0.5 * np.log(2 * np.pi * np.e / a)
    gap = gammaln(a) - a * np.log(b) - (a * loc - a + entropy)
    assert (gap > 0.005).all()
    log_p = log_p_of_rates(x.numpy())
    assert_near(found.local["gaussian"], log_p - gap, slack=2e-3)
    loc = np.log(x[:, 0].numpy() + 1) - 0.3
    at_guide = a * loc - b * np.exp(loc + 0.08) + 0.5 * np.log(2 * np.pi * np.e * 0.16)
    amortisation = (gammaln(a) - a * np.log(b) - at_guide) - gap
    assert_near(found.amortisation["gaussian"], amortisation, slack=2e-3, error=0.06)


def cluster_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.6 * x[:, 0], 0.7))


def test_a_site_that_the_model_sums_over() -> None:
    x = double([[-1.0], [0.4], [3.0]])
    pair = Pair(clusters, cluster_guide)
    found = gaps(pair, x, ("gaussian",), **{**FAST, "steps": 400})
    z = torch.linspace(-6, 6, 4001).double()[:, None]
    mixture = dist.MixtureSameFamily(
        dist.Categorical(double([0.3, 0.7])), dist.Normal(double([-0.5, 0.8]), 0.6)
    )
    q, x = dist.Normal(0.6 * x[:, 0], 0.7), x[:, 0]
    log_w = mixture.log_prob(z) + dist.Normal(z, 0.5).log_prob(x) - q.log_prob(z)
    bound = (q.log_prob(z).exp() * log_w).sum(0) * (z[1] - z[0])
    assert_near(found.elbo, bound, slack=0, error=0.05)
    assert_near(found.log_likelihood, log_p_of_clusters(x[:, None].numpy()), slack=0)
    assert (found.amortisation["gaussian"].values > 0.02).all()
    assert (
        found.approximation["gaussian"].values > -4 * found.approximation["gaussian"].errors
    ).all()


def banana(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 1] + z[..., 0] ** 2, 0.2), obs=x[:, 0])


def banana_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(double([0.0, 0.5]).expand(len(x), 2), 0.4).to_event(1))


@pytest.mark.slow
def test_a_flow_comes_nearer_than_a_gaussian() -> None:
    x = double([[-0.5], [0.3]])
    found = gaps(Pair(banana, banana_guide), x, ("flow", "gaussian"), **{**FAST, "lr": 0.02})
    z = torch.linspace(-6, 6, 4001).double()[:, None]
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 1.04**0.5).log_prob(x[:, 0])
    truth = log_p.exp().sum(0).log() + (z[1] - z[0]).log()
    assert_near(found.log_likelihood, truth, slack=0.03)
    approximation = {name: gap.values for name, gap in found.approximation.items()}
    assert (approximation["gaussian"] > 0.4).all()
    assert (approximation["flow"] < 0.25 * approximation["gaussian"]).all()
    assert (approximation["flow"] > -4 * found.approximation["flow"].errors).all()


@pytest.mark.parametrize("name", LOCAL)
def test_densities_are_those_of_the_draws(name: str) -> None:
    """log q(u) = log N(e) - log |du/de|, with a Jacobian by automatic differentiation."""
    family, (n, dim) = LOCAL[name], (2, 3)
    loc, scale = torch.randn(n, dim).double(), torch.rand(n, dim).double() + 0.5
    at = family.initial(loc, scale)
    noise = torch.randn(4, n, dim).double()
    torch.testing.assert_close(family.draw(at, noise), loc + scale * noise)
    at = {key: value + 0.5 * torch.randn_like(value) for key, value in at.items()}
    found = family.log_prob(at, family.draw(at, noise))
    one = lambda e: family.draw(at, e[None])[0]  # noqa: E731
    for e, log_q in zip(noise, found, strict=True):
        jacobian: Any = torch.autograd.functional.jacobian(one, e)
        blocks = torch.stack([jacobian[i, :, i] for i in range(n)])
        others = jacobian.clone()
        others[torch.arange(n), :, torch.arange(n)] = 0
        assert (others == 0).all()  # a datum has parameters of its own
        normal = dist.Normal(0.0, 1.0).log_prob(e).sum(-1)
        torch.testing.assert_close(log_q, normal - torch.linalg.slogdet(blocks)[1])


@pytest.mark.slow
def test_bounds_are_in_order_for_a_trained_pair() -> None:
    splits = digits("threshold")
    model = VAE(64, 10, (32,))
    fit(model, splits.train.x, ELBO(), epochs=20, lr=1e-2, device="cpu", progress=False)
    x, before = splits.test.x[:20], {n: p.clone() for n, p in model.state_dict().items()}
    model.train()
    model.zero_grad()
    state = torch.get_rng_state()
    settings = {"k": 1000, "particles": 200, "steps": 400, "lr": 0.03, "patience": 3}
    ais = {"chains": 8, "temperatures": 60, "leapfrog_steps": 3, "adaptation": 20}
    found = gaps(model, x, ("flow", "gaussian"), method="both", **settings, **ais)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert list(found.local) == ["gaussian", "flow"]  # so that a flow begins at the q* of that
    ordered = [found.elbo, *(found.local[name] for name in ("gaussian", "flow"))]
    means = [estimate.mean for estimate in [*ordered, found.log_likelihood]]
    noise = 3 * np.sqrt((found.elbo.errors**2).sum()) / len(x)
    assert means[1] > means[0] + noise
    assert means[2] > means[1] + 0.05
    assert means[3] > means[2] - noise
    total = found.approximation["flow"].values + found.amortisation["flow"].values
    np.testing.assert_allclose(total, found.total.values)
    assert (
        found.amortisation["gaussian"].values > -4 * found.amortisation["gaussian"].errors
    ).all()
    first, *rest = str(found).splitlines()
    assert first.split() == ["measure", "value", "share", "of", "the", "gap"]
    assert [line.split("  ")[0] for line in rest] == [
        "log p(x)",
        "L[q*], flow",
        "L[q*], gaussian",
        "L[q], the guide",
        "gap",
        *(f"{part} gap, {n}" for n in found.local for part in ("approximation", "amortisation")),
    ]


@pytest.mark.slow
def test_estimates_of_log_p() -> None:
    """Importance sampling fails for a guide that is far off; annealed sampling does not."""
    model, x = exact.conjugate(exact=False), exact.data()
    with torch.no_grad():
        model.encoder.loc.bias.add_(2.0)
        model.encoder.log_var.bias.fill_(-4.0)
    settings: dict[str, Any] = {"k": 200, "particles": 60, "steps": 1, "lr": 1e-9}
    ais: dict[str, Any] = {"chains": 50, "temperatures": 200, "leapfrog_steps": 3, "adaptation": 30}
    truth = exact.log_evidence(model, x).detach().numpy()
    runs = {
        method: gaps(
            model, x, ("gaussian",), method=method, **settings, **(ais if method != "iw" else {})
        ).log_likelihood.values
        for method in ("iw", "ais", "both")
    }
    assert (runs["iw"] < truth - 1).all()
    np.testing.assert_allclose(runs["ais"], truth, atol=0.15)
    np.testing.assert_array_equal(runs["ais"], runs["both"])
    settings, model = {**settings, "method": "ais"}, exact.conjugate(exact=True)
    alone = log_likelihood(model, x, method="ais", **ais).values
    found = gaps(model, x, ("gaussian",), **settings, **ais).log_likelihood
    np.testing.assert_array_equal(found.values, alone)  # though "iw" has no error here


def test_the_highest_estimate_is_not_the_noisiest() -> None:
    sure = Estimate(np.array([0.0, 0.0, -9.0, 0.0]), np.array([0.0, 0.0, 0.1, 0.1]))
    noisy = Estimate(np.array([0.5, 0.7, 0.0, np.nan]), np.array([0.2, 0.2, 1.0, np.nan]))
    for pair in ((sure, noisy), (noisy, sure)):
        best = highest(pair)
        np.testing.assert_array_equal(best.values, [0.0, 0.7, 0.0, 0.0])
        np.testing.assert_array_equal(best.errors, [0.0, 0.2, 1.0, 0.1])


def test_differences_have_the_errors_of_both() -> None:
    log_p, local, elbo = (
        Estimate(np.array([value] * 2), np.array([error] * 2))
        for value, error in ((-1.0, 0.3), (-2.0, 0.4), (-4.0, 0.0))
    )
    found = Gaps(log_p, elbo, {"gaussian": local})
    for gap, value, error in (
        (found.approximation["gaussian"], 1.0, 0.5),
        (found.amortisation["gaussian"], 2.0, 0.4),
        (found.total, 3.0, 0.3),
    ):
        np.testing.assert_allclose(gap.values, value)
        np.testing.assert_allclose(gap.errors, error)
    assert [line.split()[-1] for line in str(found).splitlines()[-2:]] == ["33%", "67%"]


class Flat(Gaussian):
    """Without a density, so that the bound is what is given."""

    def log_prob(self, at: Any, u: Tensor) -> Tensor:
        return torch.zeros_like(u[..., 0])


@pytest.mark.parametrize(("steps", "patience"), [(5000, 2), (130, 2), (5000, 3)])
def test_it_ends_when_nothing_improves(steps: int, patience: int) -> None:
    """The bound is always 0 and its gradient by loc 1: Adam moves loc by the learning rate."""
    start = {"loc": double([[0.0]]), "log_scale": double([[0.0]])}
    flat = lambda u: u.sum(-1) - u.sum(-1).detach()  # noqa: E731
    at = local_posteriors.fit(Flat(), start, flat, LocalFit(steps, 0.01, 1, patience))
    blocks = [100] * (patience + 1) if steps > 200 else [100, 30]
    rates = [0.01, 0.01, 0.005, 0.0025][: len(blocks)]
    assert at["loc"].item() == pytest.approx(np.dot(blocks, rates), rel=1e-5)
    assert start["loc"].item() == 0


def test_there_are_k_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    found = lambda log_w: shapes.append(log_w.shape) or bounds(log_w)  # type: ignore[func-returns-value] # noqa: E731
    monkeypatch.setattr(import_module("ppl_vae.shared.evaluation.gaps"), "bounds", found)
    settings = {"k": 200, "particles": 60, "steps": 1, "batch_size": 3}
    gaps(exact.conjugate(exact=True), exact.data(), ("gaussian",), **settings)
    assert shapes == [(200, 3), (200, 3), (200, 1), (200, 1)]


def unlike(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(double(0.5)))
        pyro.sample("x", dist.Normal(y, 1.0), obs=x[:, 0])


def unlike_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(double(0.5)))


def shared(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(double(0.0), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def shared_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(double(0.0), 1.0))


def nothing(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(double(0.0), 1.0), obs=x[:, 0])


def no_guide(x: Tensor) -> None:
    pass


def masked(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        with pyro.poutine.mask(mask=x[:, 0] < 2):
            z = pyro.sample("z", dist.Normal(double(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def enumerating_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(double([0.5, 0.5])), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal(y.double(), 1.0))


def auxiliary_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        aux = pyro.sample("aux", dist.Normal(x[:, 0], 1.0))
        pyro.sample("z", dist.Normal(aux, 1.0))


@pytest.mark.parametrize(
    ("program", "guide", "says"),
    [
        (unlike, unlike_guide, "site 'y' should be continuous or marked .* Bernoulli$"),
        (shared, shared_guide, "site 'z' should lie in the data plate"),
        (nothing, no_guide, "model should have a latent site that is not enumerated, had none$"),
        (masked, cluster_guide, "site 'z' should not have a mask, had one$"),
        (clusters, enumerating_guide, "site 'y' should be enumerated by the model alone"),
        (clusters, auxiliary_guide, "site 'aux' of the guide should be a continuous latent"),
        (clusters, no_guide, "site 'z' should be given as data or drawn by the guide"),
    ],
)
def test_what_has_no_gaps_is_refused(program: Any, guide: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gaps(Pair(program, guide), torch.ones(2, 1), ("gaussian",), k=2, steps=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"families": ("flow",)}, "families should not hold 'flow' for a single latent number"),
        ({"families": ()}, r"families should be some of \('gaussian', 'full', 'flow'\), was \(\)"),
        ({"families": "flow"}, "families should be some of .*, was 'flow'"),
        ({"families": ("iaf",)}, "each of families should be gaussian or full or flow, was 'iaf'"),
        ({"method": "is"}, "method should be iw or ais or both, was 'is'"),
        ({"k": 1}, "k should be a whole number of at least 2, was 1"),
        ({"lr": 0.0}, "lr should be a positive number, was 0.0"),
        *(
            ({name: 0}, f"{name} should be a whole number of at least 1, was 0")
            for name in ("steps", "draws", "patience", "batch_size", "particles")
        ),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gaps(Pair(clusters, cluster_guide), torch.ones(2, 1), **{"steps": 1, **settings})
