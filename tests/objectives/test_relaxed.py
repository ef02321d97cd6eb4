"""Relaxed against densities written out, quadrature over the noise, and sums over all states."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import every_draw
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import standard_normal
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from support import assert_same, assert_unbiased, equal, gradients
from torch import Tensor

from ppl_vae import ELBO, fit
from ppl_vae.inference import ExponentialDecay, Schedule, mean_loss
from ppl_vae.inference.objectives.relaxed import Relaxed
from ppl_vae.models import SBN, VAE, ConditionalSBN
from ppl_vae.models.distributions.concrete import BinConcrete, ExpConcrete, kind_of, relax

X = torch.tensor([0.4, -1.3], dtype=torch.double)


class Noise(Messenger):
    """Relaxed sites are made of these numbers, in the place of logistic and Gumbel ones."""

    def __init__(self, **noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.noise and msg["value"] is None:
            fn = msg["fn"]
            while hasattr(fn, "base_dist"):
                fn = fn.base_dist
            msg["value"] = fn.from_noise(self.noise[msg["name"]])


class Recorded(Messenger):
    """The log density of the observed sites."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            self.log_prob = msg["fn"].log_prob(msg["value"]).detach()


class Pair:
    """p: b ~ Bernoulli(pi), z ~ N(0, 1), x ~ N(a b + c z, 1);  q: logits w x + u, N(h x, e^s)."""

    def __init__(self, kind: str = "Bernoulli", mixed: bool = False) -> None:
        shape = () if kind == "Bernoulli" else (3,)
        self.kind, self.mixed = kind, mixed
        self.pi, self.a, self.w, self.u = (self.parameter(*shape) for _ in range(4))
        self.c, self.h, self.s = (self.parameter() for _ in range(3))
        self.parameters = [self.pi, self.a, self.w, self.u]
        self.parameters += [self.c, self.h, self.s] if mixed else []
        self.saw: list[Tensor] = []

    @staticmethod
    def parameter(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.double).requires_grad_()

    def discrete(self, logits: Tensor) -> Any:
        return getattr(dist, self.kind)(logits=logits)

    def logits(self, x: Tensor) -> Tensor:
        return self.w * (x if self.kind == "Bernoulli" else x[:, None]) + self.u

    def mean(self, b: Tensor, z: Any) -> Tensor:
        effect = self.a * b if self.kind == "Bernoulli" else (self.a * b).sum(-1)
        return effect + self.c * z

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", self.discrete(self.pi))
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0)) if self.mixed else 0.0
            self.saw.append(b.detach())
            pyro.sample("x", dist.Normal(self.mean(b, z), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("b", self.discrete(self.logits(x)))
            if self.mixed:
                pyro.sample("z", dist.Normal(self.h * x, self.s.exp()))

    def loss(self, objective: Any, x: Tensor = X, **noise: Tensor) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            with Noise(**noise):
                result: Tensor = objective.differentiable_loss(self.model, self.guide, x)
            return result

        return loss


def logistic(noise: Tensor) -> Tensor:
    return -noise - 2 * (1 + (-noise).exp()).log()


def by_hand(pair: Pair, t: float, noise: Tensor, z_noise: Any = None, x: Tensor = X) -> Tensor:
    """The relaxed bound of each draw, from the densities of the noise: no logit is needed."""
    logits = pair.logits(x)
    if pair.kind == "Bernoulli":
        b = 1 / (1 + (-(logits + noise) / t).exp())
        log_ratio = logistic(noise + logits - pair.pi) - logistic(noise)
    else:  # independent Gumbel numbers, of which the common part is integrated out
        b = ((logits + noise) / t).exp()
        b = b / b.sum(-1, keepdim=True)
        log_ratio = ((pair.pi - logits - noise).softmax(-1).log() - (-noise).softmax(-1).log()).sum(
            -1
        )
    z = 0.0
    if pair.mixed:
        z = pair.h * x + pair.s.exp() * z_noise
        log_ratio = log_ratio + standard_normal(z) - standard_normal(z_noise) + pair.s
    return log_ratio + standard_normal(x - pair.mean(b, z))


def grid(step: float) -> tuple[Tensor, Tensor]:
    """Logistic numbers, and what each counts for in an integral over them."""
    noise = torch.arange(-40, 40, step, dtype=torch.double)
    return noise, step * logistic(noise).exp()


@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
def test_the_density_of_a_logit(t: float) -> None:
    logits = torch.tensor([-0.5, 0.8], dtype=torch.double)
    fn = BinConcrete(t, logits)
    y = torch.linspace(-2, 2, 9, dtype=torch.double)[:, None]
    z = y.sigmoid()
    theirs = dist.RelaxedBernoulli(torch.tensor(t, dtype=torch.double), logits=logits).log_prob(z)
    torch.testing.assert_close(fn.log_prob(y), theirs + (z * (1 - z)).log(), rtol=1e-9, atol=1e-9)
    points = torch.arange(-200, 200, 0.02, dtype=torch.double)[:, None]
    total = 0.02 * fn.log_prob(points).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0.6, 1.5])
def test_the_density_of_log_probabilities(t: float) -> None:
    logits = torch.tensor([-0.5, 0.8, 0.1], dtype=torch.double)
    fn = ExpConcrete(t, logits)
    y = torch.randn(9, 3, dtype=torch.double).log_softmax(-1)
    theirs = dist.RelaxedOneHotCategorical(torch.tensor(t, dtype=torch.double), logits=logits)
    expected = theirs.log_prob(y.exp()) + y.sum(-1)
    torch.testing.assert_close(fn.log_prob(y), expected, rtol=1e-9, atol=1e-9)
    points = torch.arange(-80, 80, 0.4, dtype=torch.double)
    odds = torch.cartesian_prod(points, points)
    log_z = torch.cat([odds, torch.zeros(len(odds), 1).double()], -1).log_softmax(-1)
    total = (0.4**2 * fn.log_prob(log_z).exp()).sum().item()
    np.testing.assert_allclose(total, 1, atol=1e-7)


def test_draws_have_these_densities() -> None:
    """t (y_1 - y_2) less that of the logits is logistic, so its sigmoid is uniform."""
    logits, n = torch.tensor([1.0, -0.5, 0.2], dtype=torch.double), 20000
    y = BinConcrete(0.7, logits).rsample((n,))
    e = ExpConcrete(0.7, logits).rsample((n,))
    uniform = [(0.7 * y - logits).sigmoid()]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        uniform.append((0.7 * (e[:, i] - e[:, j]) - logits[i] + logits[j]).sigmoid()[:, None])
    u = torch.cat(uniform, 1)
    for power in (1, 2, 6):
        assert_unbiased(u**power, torch.tensor(1 / (power + 1)))
    assert_unbiased(BinConcrete.nearest(y), logits.sigmoid())
    assert_unbiased(ExpConcrete.nearest(e), logits.softmax(-1))
    # Jointly: P(1 is largest, 2 is larger than 3) is that of drawing without replacement.
    p = logits.softmax(-1)
    ordered = ((e[:, 0] > e[:, 1]) & (e[:, 1] > e[:, 2])).double()
    assert_unbiased(ordered, p[0] * p[1] / (p[1] + p[2]))


@pytest.mark.parametrize("t", [0.3, 1.2])
def test_value_and_gradients_by_quadrature(t: float) -> None:
    """A datum for each node, whose scale is the weight of the node."""
    pair = Pair()
    noise, weight = grid(0.05)
    copies, many = X.repeat_interleave(len(noise)), noise.repeat(2)
    programs = [poutine.scale(p, scale=weight.repeat(2)) for p in (pair.model, pair.guide)]

    def loss() -> Tensor:
        with Noise(b=many):
            return Relaxed(t).differentiable_loss(*programs, copies)

    other, other_weight = grid(0.0371)
    expected = lambda: -(other_weight[:, None] * by_hand(pair, t, other[:, None])).sum()  # noqa: E731
    ours = gradients(loss, pair.parameters)
    assert_same(ours, gradients(expected, pair.parameters), 1e-8)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", ["Bernoulli", "Categorical", "OneHotCategorical"])
def test_mixed_latents_at_given_noise(kind: str, k: int) -> None:
    pair = Pair(kind, mixed=True)
    shape = (k, 2) if k > 1 else (2,)
    noise = torch.randn(*shape, *([] if kind == "Bernoulli" else [3]), dtype=torch.double)
    z_noise = torch.randn(shape, dtype=torch.double)
    z = pair.h * X + pair.s.exp() * z_noise

    def loss() -> Tensor:
        with every_draw.Given({"z": z}):
            return pair.loss(Relaxed(0.7, k=k), b=noise)()

    def expected() -> Tensor:
        return -by_hand(pair, 0.7, noise, z_noise).sum() / k

    assert_same(gradients(loss, pair.parameters), gradients(expected, pair.parameters))


def test_a_hard_pair_has_the_discrete_reconstruction() -> None:
    """Its bound is that, less the divergence of the shifted noise; and below the discrete one."""
    pair, n = Pair(), 20000
    noise, weight = grid(0.02)
    logits = pair.logits(X)
    q = logits.sigmoid()
    log_p_x = [standard_normal(X - pair.mean(torch.tensor(b), 0.0)) for b in (0.0, 1.0)]
    reconstruction = (1 - q) * log_p_x[0] + q * log_p_x[1]
    shifted = logistic(noise[:, None] + logits - pair.pi)
    relaxed_kl = (weight[:, None] * (logistic(noise)[:, None] - shifted)).sum(0)
    p = dist.Bernoulli(logits=pair.pi)
    kl = torch.distributions.kl_divergence(dist.Bernoulli(logits=logits), p)
    assert (relaxed_kl > kl).all()
    for i, x in enumerate(X.split(1)):
        copies = x.expand(100)
        objective = Relaxed(0.5, hard=True)
        losses = [pair.loss(objective, copies)().detach() / 100 for _ in range(n // 100)]
        assert_unbiased(-torch.stack(losses), (reconstruction - relaxed_kl)[i].detach())
    assert set(torch.cat(pair.saw).tolist()) == {0.0, 1.0}


def test_reconstruction_without_temperature_is_the_sum_over_states() -> None:
    """The hard one is on average; the relaxed one, of the same noise, goes there."""
    model, x = every_draw.sbn()
    log_q, _ = every_draw.of_states(model, x)
    count = 2 ** sum(every_draw.Z_DIMS)
    z_1 = every_draw.values_of(torch.arange(count))["z_1"]
    expected = (log_q.exp() * model.decoder(z_1[:, None]).log_prob(x)).sum(0)
    found = []
    for t, hard in ((0.3, True), (0.3, False), (0.03, False), (0.0003, False)):
        pyro.set_rng_seed(0)
        with Recorded() as recorded, torch.no_grad():
            Relaxed(t, hard, k=8000).differentiable_loss(model.model, model.guide, x)
        found.append(recorded.log_prob)
    assert_unbiased(found[0], expected.detach())
    away = [(relaxed - found[0]).abs().mean().item() for relaxed in found[1:]]
    assert away[0] > 5 * away[1] > 25 * away[2]
    assert away[2] < 1e-3


@pytest.mark.parametrize("kind", ["Bernoulli", "Categorical"])
def test_straight_through_gradients_of_what_is_linear(kind: str) -> None:
    pair = Pair(kind)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", pair.discrete(pair.pi))
            pair.saw.append(b.detach())
            pyro.factor("linear", 3 * x * pair.mean(b, 0.0))

    noise = torch.randn(2, *([] if kind == "Bernoulli" else [3]), dtype=torch.double)
    parameters = [pair.pi, pair.w, pair.u]

    def loss(hard: bool) -> Tensor:
        with Noise(b=noise):
            return Relaxed(0.7, hard).differentiable_loss(model, pair.guide, X)

    soft, hard = (gradients(lambda h=h: loss(h), parameters) for h in (False, True))
    assert_same(soft[1:], hard[1:])
    assert (soft[0] - hard[0]).abs() > 0.01
    assert pair.saw[0].min() > 0.001
    for value in pair.saw[-1].reshape(-1).tolist():
        assert value in (0.0, 1.0)
    if kind == "Categorical":
        assert pair.saw[-1].shape == (2, 3)
        assert (pair.saw[-1].sum(-1) == 1).all()


@pytest.mark.parametrize("n_categories", [2, 3])
@pytest.mark.parametrize("hard", [False, True])
def test_belief_networks_train(n_categories: int, hard: bool) -> None:
    x = torch.bernoulli(torch.full((12, 5), 0.4))
    c = torch.randn(12, 4)
    for model, data in (
        (SBN(5, (4, 3), n_categories=n_categories), (x,)),
        (ConditionalSBN(5, 4, (4, 3), n_categories=n_categories), (c, x)),
        (ConditionalSBN(5, 4, (4, 3), n_categories=n_categories, recognition=False), (c, x)),
    ):
        for k in (1, 3):
            objective = Relaxed(0.5, hard, k)
            loss = partial(objective.differentiable_loss, model.model, model.guide, *data)
            for gradient in gradients(loss, model.parameters()):
                assert gradient.isfinite().all()
                assert gradient.abs().sum() > 0


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kind", ["Bernoulli", "Categorical"])
def test_extreme_logits_in_single_precision(kind: str, hard: bool) -> None:
    """Temperature 0.05, where z is 0 or 1 in all digits, also against twice the digits."""
    found = []
    pair = Pair(kind)
    sizes = [1e4, -1e4, 60.0, -60.0, 0.5]
    rows = sizes if kind == "Bernoulli" else [[size, 0.0, -size / 2] for size in sizes]
    gumbel = torch.distributions.Gumbel(0.0, 1.0).sample((5, 3)).double()
    noise = gumbel[:, 0] - gumbel[:, 1] if kind == "Bernoulli" else gumbel
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor(rows, dtype=dtype).requires_grad_()
        prior = torch.tensor(rows, dtype=dtype).flip(0).requires_grad_()

        def program(logits: Tensor, model: bool) -> None:
            with pyro.plate("data", 5):
                b = pyro.sample("b", pair.discrete(logits))
                if model:
                    pyro.factor("x", b if kind == "Bernoulli" else b[:, 0])

        programs = partial(program, prior, True), partial(program, logits, False)
        with Noise(b=noise.to(dtype)):
            loss = Relaxed(0.05, hard).differentiable_loss(*programs)
        found.append([loss.detach(), *torch.autograd.grad(loss, [logits, prior])])
        pyro.set_rng_seed(0)
        assert math.isfinite(Relaxed(0.05, hard).loss(*programs))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=2e-3)
        assert single.abs().sum() > 0


def around(site: Any, mask: Tensor, form: str) -> Any:
    if form == "mask":
        return site.mask(mask)
    if form == "expanded":
        return dist.ExpandedDistribution(site.mask(mask), (2,))
    return site.expand([2]).mask(mask)


@pytest.mark.parametrize("form", ["poutine", "mask", "expand", "expanded"])
def test_masks_and_scales_are_those_of_the_data(form: str) -> None:
    """A datum counts for its scale, and one that is masked for nothing."""
    pair, noise = Pair(), torch.randn(2, dtype=torch.double)
    mask, scale = torch.tensor([False, True]), torch.tensor([3.0, 2.0], dtype=torch.double)
    objective = Relaxed(0.7)

    def loss() -> Tensor:
        if form == "poutine":
            programs = [poutine.mask(p, mask=mask) for p in (pair.model, pair.guide)]
        else:

            def model(x: Tensor) -> None:
                with pyro.plate("data", 2):
                    b = pyro.sample("b", around(pair.discrete(pair.pi), mask, form))
                    pyro.sample("x", dist.Normal(pair.mean(b, 0.0), 1.0).mask(mask), obs=x)

            def guide(x: Tensor) -> None:
                with pyro.plate("data", 2):
                    pyro.sample("b", around(pair.discrete(pair.logits(x)), mask, form))

            programs = [model, guide]
        programs = [poutine.scale(p, scale=scale) for p in programs]
        with Noise(b=noise):
            return objective.differentiable_loss(*programs, X)

    expected = lambda: -2 * by_hand(pair, 0.7, noise)[1]  # noqa: E731
    assert_same(gradients(loss, pair.parameters), gradients(expected, pair.parameters))


def test_latents_of_all_data_and_of_inner_plates() -> None:
    pi, a, u = (Pair.parameter() for _ in range(3))
    noise, inner = torch.randn(1).double()[0], torch.randn(4, 2, dtype=torch.double)

    def model(x: Tensor) -> None:
        g = pyro.sample("g", dist.Bernoulli(logits=pi))
        with pyro.plate("data", 20, subsample_size=2):
            with pyro.plate("inner", 4, dim=-2):
                b = pyro.sample("b", dist.Bernoulli(logits=pi))
            pyro.sample("x", dist.Normal(a * g + b.sum(-2), 1.0).to_event(0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("g", dist.Bernoulli(logits=u))
        with pyro.plate("data", 20, subsample_size=2), pyro.plate("inner", 4, dim=-2):
            pyro.sample("b", dist.Bernoulli(logits=u * x))

    def loss() -> Tensor:
        with Noise(g=noise, b=inner):
            return Relaxed(0.7, max_plate_nesting=2).differentiable_loss(model, guide, X)

    def expected() -> Tensor:
        g, b = ((u + noise) / 0.7).sigmoid(), ((u * X + inner) / 0.7).sigmoid()
        local = (logistic(inner + u * X - pi) - logistic(inner)).sum(0)
        local = local + standard_normal(X - a * g - b.sum(0))
        return -(logistic(noise + u - pi) - logistic(noise) + 10 * local.sum())

    assert_same(gradients(loss, [pi, a, u]), gradients(expected, [pi, a, u]))


def test_latents_that_only_the_model_enumerates_are_summed_out() -> None:
    pair, noise = Pair(), torch.randn(2, dtype=torch.double)
    y_logits = Pair.parameter()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", pair.discrete(pair.pi))
            fn = dist.Bernoulli(logits=y_logits)
            y = pyro.sample("y", fn, infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(pair.mean(b, 0.0) + y, 1.0), obs=x)

    def loss() -> Tensor:
        with Noise(b=noise):
            return Relaxed(0.7).differentiable_loss(model, pair.guide, X)

    def expected() -> Tensor:
        q, terms = y_logits.sigmoid(), by_hand(pair, 0.7, noise, x=X)
        b = ((pair.logits(X) + noise) / 0.7).sigmoid()
        at = [standard_normal(X - pair.mean(b, 0.0) - y) for y in (0.0, 1.0)]
        log_p_x = ((1 - q) * at[0].exp() + q * at[1].exp()).log()
        return -(terms - at[0] + log_p_x).sum()

    parameters = [*pair.parameters, y_logits]
    assert_same(gradients(loss, parameters), gradients(expected, parameters))


class Steps(Schedule):
    """One temperature in the first epoch, another in the others."""

    def __init__(self, first: float, then: float) -> None:
        self.first, self.then = first, then

    def __call__(self, epoch: Any) -> Any:
        return self.first if epoch == 1 else self.then


def network() -> SBN:
    pyro.set_rng_seed(0)
    return SBN(5, (3, 2), n_categories=3)


BITS = np.random.default_rng(0).integers(0, 2, (20, 5)).astype(np.float32)
SETTINGS: dict[str, Any] = {"batch_size": 10, "progress": False, "device": "cpu"}


def test_fit_advances_the_temperature_and_measures_the_discrete_pair() -> None:
    losses = {}
    for name, t in (("schedule", Steps(1.0, 0.1)), ("warm", 1.0), ("cold", 0.1)):
        still = {"lr": 1e-30, **SETTINGS}  # weights stay, so that losses depend on t and noise
        history = fit(network(), BITS, Relaxed(t), epochs=2, validation=BITS, **still)
        losses[name] = [row["loss"] for row in history.rows]
        measured = mean_loss(network(), BITS, ELBO())
        np.testing.assert_allclose(history.rows[-1]["validation_loss"], measured)
    assert losses["schedule"] == [losses["warm"][0], losses["cold"][1]]
    assert abs(losses["warm"][1] - losses["cold"][1]) > 0.01
    assert Relaxed(ExponentialDecay(1.0, 0.5, 3)).at(3).temperature == 0.5
    assert Relaxed(0.3, k=7, max_plate_nesting=2).for_evaluation().k == 7
    assert Relaxed(0.3, k=7, max_plate_nesting=2).for_evaluation().max_plate_nesting == 2


def test_a_resumed_run_has_the_same_temperatures(tmp_path: Path) -> None:
    objective = Relaxed(ExponentialDecay(1.0, 0.5, 4), hard=True)
    whole, first, rest = network(), network(), network()
    fit(whole, BITS, objective, epochs=4, **SETTINGS)
    fit(first, BITS, objective, epochs=2, out=tmp_path, **SETTINGS)
    fit(rest, BITS, objective, epochs=4, out=tmp_path, resume=True, **SETTINGS)
    assert equal(whole.state_dict(), rest.state_dict())
    for other in (Relaxed(0.5, hard=True), Relaxed(objective.temperature)):
        with pytest.raises(ValueError, match=r"objective\.(temperature|hard)"):
            fit(network(), BITS, other, epochs=4, out=tmp_path, resume=True, **SETTINGS)


def test_functions_with_parameters_under_svi() -> None:
    """The guide finds the posterior of a pair whose evidence needs it to tell the data apart."""
    pyro.clear_param_store()
    x = torch.tensor([2.0, -2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=torch.zeros(2)))
            pyro.sample(
                "x", dist.Normal(pyro.param("a", torch.tensor(1.0)) * (2 * b - 1), 1), obs=x
            )

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=pyro.param("logits", torch.zeros(2))))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Relaxed(0.5, k=5))
    for _ in range(150):
        svi.step(x)
    logits = pyro.param("logits")
    assert logits[0] > 1.5
    assert logits[1] < -1.5
    assert pyro.param("a") > 1.3
    pyro.clear_param_store()


def test_wrong_arguments_are_named() -> None:
    for arguments, says in (
        ({"temperature": 0.0}, "temperature should be a positive number, was 0.0"),
        ({"temperature": "cold"}, "temperature should be a positive number, was 'cold'"),
        ({"hard": 5}, "hard should be True or False, was 5"),
        ({"k": 0}, "k should be a whole number of at least 1, was 0"),
    ):
        with pytest.raises(ValueError, match=says):
            Relaxed(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature should be a number where no epoch is known"):
        Pair().loss(Relaxed(ExponentialDecay(1.0, 0.5, 3)))()


def latent(fn: Any, marks: Any = None, use: Any = lambda b: b) -> Any:
    """A program with one latent site, given a datum or not."""

    def program(x: Tensor, model: bool = True) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", fn, infer=marks or {})
            pyro.sample("x", dist.Normal(use(b), 1.0), obs=x)

    return program


BERNOULLI = dist.Bernoulli(logits=torch.zeros(2).requires_grad_())
CATEGORICAL = dist.Categorical(logits=torch.zeros(2, 2).requires_grad_())
POISSON = dist.Poisson(torch.ones(2))
ONES = torch.ones(2)
MARKED = {"enumerate": "parallel"}


def only(program: Any) -> Any:
    return poutine.block(program, hide=["x"])


def test_what_has_no_relaxation_is_refused() -> None:
    data = torch.zeros(2)
    normal = dist.Normal(torch.zeros(2), 1.0)
    multinomial = dist.Multinomial(1, torch.ones(2, 3))
    for model, guide, says in (
        (latent(POISSON), latent(POISSON), "'b' should be Bernoulli, .*, was Poisson.*use VIMCO"),
        (latent(multinomial), latent(multinomial), "was Multinomial, which has no relaxation"),
        (latent(BERNOULLI), latent(BERNOULLI, MARKED), "'b' should not be enumerated by the guide"),
        (latent(normal), latent(normal), "guide should draw a discrete latent.*use ELBO or IWAE"),
        (latent(CATEGORICAL), latent(BERNOULLI), "Categorical in the model and Bernoulli in the g"),
        (latent(normal), latent(BERNOULLI), "was continuous in the model and Bernoulli in the gui"),
        (latent(POISSON), latent(normal), "was Poisson in the model and continuous in the guide"),
    ):
        with pytest.raises(ValueError, match=says):
            Relaxed().differentiable_loss(model, only(guide), data)


def test_latents_of_the_model_alone_are_refused() -> None:
    pair = Pair()

    def model(x: Tensor) -> None:
        with pyro.plate("others", len(x)):
            pyro.sample("other", dist.Bernoulli(torch.full((2,), 0.5)))
        pair.model(x)

    with pytest.raises(ValueError, match="'other' should be given as data or drawn by the guide"):
        Relaxed().differentiable_loss(model, pair.guide, X)


def test_given_values_are_refused() -> None:
    def guide(x: Tensor) -> None:
        with every_draw.Given({"b": ONES.double()}):
            pair.guide(x)

    pair = Pair()
    with pytest.raises(ValueError, match="'b' should be drawn to be relaxed, was given a value"):
        Relaxed().differentiable_loss(pair.model, guide, X)


@pytest.mark.parametrize("hard", [False, True])
def test_a_program_that_makes_integers_of_values_is_refused(hard: bool) -> None:
    data, means = torch.zeros(2), torch.tensor([0.1, 0.9])
    guide = only(latent(BERNOULLI))
    for use in (lambda b: means[b.long()], lambda b: b.round().detach()):
        with pytest.raises(ValueError, match=r"'b' should be used by the model as the floating"):
            Relaxed(hard=hard).differentiable_loss(latent(BERNOULLI, use=use), guide, data)
    Relaxed(hard=hard).differentiable_loss(latent(BERNOULLI), guide, data)


def test_pairs_without_discrete_latents_are_refused_by_fit() -> None:
    with pytest.raises(ValueError, match="guide should draw a discrete latent, drew none"):
        fit(VAE(5, 2, (3,)), BITS, Relaxed(), epochs=1, **SETTINGS)


def test_kinds_are_seen_through_what_lies_around_them() -> None:
    units = dist.Bernoulli(logits=torch.zeros(2, 3)).mask(True).to_event(1)
    assert kind_of(units) == "Bernoulli"
    one_hot = dist.OneHotCategorical(logits=torch.zeros(2, 3)).expand([4, 2])
    assert kind_of(one_hot) == "OneHotCategorical"
    number = relax(dist.ExpandedDistribution(dist.Bernoulli(logits=torch.tensor(0.0)), (4,)), 0.5)
    assert number.sample().shape == number.batch_shape == (4,)
    categories = dist.Categorical(logits=torch.zeros(2, 3, 4)).to_event(1)
    relaxed = relax(categories.expand([5, 2]), 0.5)
    assert (relaxed.batch_shape, relaxed.event_shape) == ((5, 2), (3, 4))
    assert relax(units, 0.5).sample().shape == (2, 3)
    torch.testing.assert_close(relaxed.sample().exp().sum(-1), torch.ones(5, 2, 3))
