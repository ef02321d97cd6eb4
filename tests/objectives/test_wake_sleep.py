"""Reweighted wake-sleep against its definition, by sums over all draws and all data."""

import itertools
from collections.abc import Callable
from typing import Any

import bounds
import every_draw
import linear_gaussian as exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from draws_support import Numbers, data
from every_draw import Given, of_states, sbn, tuples, values_of
from pyro import poutine
from pyro.infer import SVI
from support import CASE, assert_same, assert_unbiased, gradients, make, tensors
from torch import Tensor
from toy import Toy
from wake_sleep_support import Dreaming

from ppl_vae.inference import IWAE, mean_loss
from ppl_vae.inference.objectives.wake_sleep import RWS, WakeSleep
from ppl_vae.models import SBN, Model

ALL_X = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()


def of_guide(model: Model) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if name.startswith("encoder")]


def of_model(model: Model) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if not name.startswith("encoder")]


def found(model: Model, objective: Any, x: Tensor, parameters: Any = None) -> list[Tensor]:
    loss = lambda: objective.differentiable_loss(model.model, model.guide, x)  # noqa: E731
    return gradients(loss, model.parameters() if parameters is None else parameters)


def defined(log_p: Tensor, log_q: Tensor, each: Tensor, prob: Tensor) -> Tensor:
    """-E log 1/K sum_i w_i, with the gradient -E sum_i v_i d(log p + log q): densities of states.

    `each` has the states' numbers in every K-tuple, (tuples, K), and `prob` the tuples'
    probabilities, (tuples, N).
    """
    log_w = (log_p - log_q).detach()[each]
    value = -(prob * bounds.log_mean_exp(log_w)).sum()
    score = -(prob * (log_w.softmax(1) * (log_p + log_q)[each]).sum(1)).sum()
    return value + score - score.detach()


@pytest.mark.parametrize("k", [2, 3])
def test_wake_phases_by_enumeration(k: int) -> None:
    model, x = sbn()

    def by_hand() -> Tensor:
        log_q, log_w = of_states(model, x)
        prob = log_q[tuples(k)].sum(1).exp().detach()
        return defined(log_w + log_q, log_q, tuples(k), prob)

    ours = lambda: every_draw.loss(RWS(k), model, x)  # noqa: E731
    assert_same(gradients(ours, model.parameters()), gradients(by_hand, model.parameters()))
    bound = lambda: -every_draw.expected(bounds.log_mean_exp, model, x, k)  # noqa: E731
    assert_same(gradients(ours, of_model(model)), gradients(bound, of_model(model)))


def test_wake_phases_of_continuous_latents() -> None:
    model, x = bounds.pair()
    values, log_prob = bounds.nodes()
    q = model.encoder(x)
    z = (q.base_dist.loc + q.base_dist.scale * values[:, None, None]).detach()
    log_q = q.log_prob(z)
    log_p = model.prior().log_prob(z) + model.decoder(z).log_prob(x)
    each = torch.cartesian_prod(torch.arange(len(values)), torch.arange(len(values)))
    prob = log_prob[each].sum(1).exp()[:, None]
    loss = defined(log_p, log_q, each, prob)
    bounds.assert_expected(RWS(2), model, x, list(model.parameters()), loss)


def test_more_particles_come_nearer_to_the_divergence_from_the_posterior() -> None:
    model, x = sbn()

    def divergence() -> Tensor:
        log_q, log_w = of_states(model, x)
        posterior = (log_q + log_w).softmax(0).detach()
        return -(posterior * log_q).sum()

    exactly = torch.cat([g.reshape(-1) for g in gradients(divergence, of_guide(model))[1:]])

    def away(k: int) -> float:
        loss = lambda: every_draw.loss(RWS(k), model, x)  # noqa: E731
        ours = torch.cat([g.reshape(-1) for g in gradients(loss, of_guide(model))[1:]])
        return float((ours - exactly).norm() / exactly.norm())

    errors = [away(k) for k in (2, 3, 4)]
    assert errors[0] > 1.2 * errors[1] > 1.2**2 * errors[2] > 0.01  # there is a bias
    ours = found(model, RWS(100_000), x, of_guide(model))[1:]
    many = torch.cat([g.reshape(-1) for g in ours])
    assert (many - exactly).norm() < 0.02 * exactly.norm()


def test_at_the_posterior_the_guide_stays_where_it_is() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    copies = x.repeat(2000, 1)
    for objective in (RWS(4), RWS(4, True, True), WakeSleep()):
        pyro.set_rng_seed(0)
        losses = [objective.differentiable_loss(model.model, model.guide, copies) for _ in range(9)]
        assert losses[0].item() / 2000 == pytest.approx(
            -exact.log_evidence(model, x).sum().item(), abs=1e-9
        )
        grads = [torch.autograd.grad(loss, of_guide(model)) for loss in losses]
        flat = torch.stack([torch.cat([g.reshape(-1) for g in grad]) for grad in grads]) / 2000
        assert_unbiased(flat, torch.zeros(()).double(), errors=5.0)
        assert flat.std() < 0.2
    model = exact.conjugate(exact=False)
    for objective in (RWS(4), WakeSleep()):
        grads_of_other = found(model, objective, copies, of_guide(model))[1:]
        assert max(float(grad.abs().max()) for grad in grads_of_other) / 2000 > 1


def dreaming(objective: Any, model: SBN, x: Tensor, wake: Tensor, x_: Tensor, z_: Tensor) -> Any:
    """How to compute the loss with latents `wake` and dreams (x_, z_), by numbers of states."""

    def loss(context: Any = lambda program: program) -> Tensor:
        programs = [context(program) for program in (model.model, model.guide)]
        with Dreaming(values_of(wake), {**values_of(z_), "x": x_}):
            result: Tensor = objective.differentiable_loss(*programs, x)
        return result

    return loss


def test_the_sleep_phase_by_enumeration() -> None:
    model, _ = sbn()
    log_q, log_w = of_states(model, ALL_X)
    prob = (log_q + log_w).exp().detach()  # p(x, z), (8, 8)
    assert prob.sum().item() == pytest.approx(1.0)
    expected = gradients(lambda: -(prob * of_states(model, ALL_X)[0]).sum(), of_guide(model))[1:]
    states = torch.arange(8)
    x_, z_ = ALL_X.repeat(8, 1), states.repeat_interleave(8)
    loss = dreaming(WakeSleep(), model, torch.zeros(64, 3).double(), torch.zeros_like(z_), x_, z_)
    scaled = lambda program: poutine.scale(program, scale=prob.reshape(-1))  # noqa: E731
    ours = gradients(lambda: loss(scaled), of_guide(model))[1:]
    assert_same(ours, expected)


def test_wake_sleep_gives_the_model_the_gradient_of_the_elbo() -> None:
    model, x = exact.vae(), exact.data()
    ours, elbo = (found(model, o, x, of_model(model)) for o in (WakeSleep(), IWAE(1)))
    assert_same(ours, elbo)


def test_both_phases_are_the_mean_of_each() -> None:
    model, x = exact.vae(), exact.data()
    wake, sleep, both = (
        [found(model, RWS(3, *phases), x, part(model)) for part in (of_model, of_guide)]
        for phases in ((True, False), (False, True), (True, True))
    )
    assert_same(both[0], wake[0])
    assert_same(both[0], sleep[0])
    mean = [(a + b) / 2 for a, b in zip(wake[1], sleep[1], strict=True)]
    assert_same(both[1], mean)
    assert (wake[1][1] - sleep[1][1]).abs().max() > 0.1


def test_a_datum_has_its_own_weights_and_a_masked_one_nothing() -> None:
    """Pyro's `ReweightedWakeSleep` has one sum of weights for all data."""
    model, x = sbn()
    wake, x_, z_ = torch.tensor([[3, 7], [1, 0], [6, 2]]), ALL_X[[5, 2]], torch.tensor([4, 1])
    every = list(model.parameters())

    def of(rows: Any, context: Any = lambda program: program) -> list[Tensor]:
        arguments = x[rows], wake[:, rows], x_[rows], z_[rows]
        return gradients(lambda: dreaming(RWS(3, True, True), model, *arguments)(context), every)

    first, second, both = of([0]), of([1]), of([0, 1])
    assert_same(both, [a + b for a, b in zip(first, second, strict=True)])
    mask = torch.tensor([True, False])
    assert_same(of([0, 1], lambda p: poutine.mask(p, mask=mask)), first)
    scale = torch.tensor([2.5, 1.0], dtype=torch.double)
    scaled = of([0, 1], lambda p: poutine.scale(p, scale=scale))
    assert_same(scaled, [2.5 * a + b for a, b in zip(first, second, strict=True)])

    def joint() -> Tensor:
        log_q, log_w = (part.gather(0, wake) for part in of_states(model, x))
        share = log_w.detach().reshape(-1).softmax(0).reshape(log_w.shape)
        return -2 * (share * (log_w + log_q)).sum()  # there are two data

    with Given(values_of(wake)):
        ours = found(model, RWS(3), x, of_model(model))
    theirs = gradients(joint, of_model(model))
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) > 0.1


def test_no_gradient_passes_through_the_draws() -> None:
    model, x = exact.vae(), exact.data()
    for objective in (RWS(4), RWS(4, True, True)):
        ours = found(model, objective, x)
        model.encoder.__class__, before = exact.UnreparametrisedNet, model.encoder.__class__
        assert_same(ours, found(model, objective, x))
        model.encoder.__class__ = before


class Plain(Toy):
    """The pair that observes its argument as it is."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.pi), infer=self.infer)
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.a), 1.0))
            pyro.sample("x", dist.Normal(self.a * z + self.m[y], 1.0), obs=x)


def test_a_class_that_only_the_model_enumerates_is_summed_out() -> None:
    toy, x = Plain(3, marked=True), torch.randn(5, dtype=torch.double)
    of_model, of_guide = [toy.pi, toy.m, toy.a], [toy.g, toy.s, toy.h]

    def of(objective: Any, parameters: list[Tensor]) -> list[Tensor]:
        return gradients(toy.loss(objective, x, toy.guide_of_z), parameters)

    assert_same(of(RWS(3, True, True), of_model), of(IWAE(3), of_model))
    x_, z_ = torch.randn(2, 5, dtype=torch.double)
    log_q = lambda: dist.Normal(toy.g[0] + toy.h * x_, toy.s[0].exp()).log_prob(z_)  # noqa: E731
    with Dreaming({}, {"x": x_, "z": z_}):
        ours = of(WakeSleep(), of_guide)[1:]
    assert_same(ours, gradients(lambda: -log_q().sum(), of_guide)[1:])


class Conditioned:
    """x and a label y given c; remembers what its guide was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.a, self.b = (torch.tensor(0.3, requires_grad=True) for _ in range(2))

    def model(self, c: Tensor, x: Tensor, *, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("y", dist.Categorical(logits=torch.tensor([0.0, 3.0, 0.0])), obs=y)
            pyro.sample("x", dist.Normal(4 + z, 1.0), obs=x)

    def guide(self, c: Tensor, x: Tensor, *, y: Tensor) -> None:
        self.given.append((c, x, y))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=self.b * torch.arange(3)), obs=y)
            pyro.sample("z", dist.Normal(self.a * x + y + c, 1.0))


def test_the_guide_is_given_what_the_model_simulates() -> None:
    pair = Conditioned()
    c, x, y = torch.randn(50), torch.zeros(50).double(), torch.zeros(50).long()
    loss = RWS(2, True, True).differentiable_loss(pair.model, pair.guide, c, x, y=y)
    grads = torch.autograd.grad(loss, [pair.a, pair.b], allow_unused=True)
    assert grads[0].abs() > 0.1
    assert grads[1] is None  # not a latent of the guide
    (wake_c, wake_x, wake_y), (sleep_c, sleep_x, sleep_y) = pair.given
    assert wake_c is c
    assert wake_x is x
    assert wake_y is y
    assert sleep_c is c
    assert (sleep_x.dtype, sleep_y.dtype) == (torch.float64, torch.int64)
    assert sleep_x.mean() > 2
    assert (sleep_y == 1).float().mean() > 0.6


def test_the_value_is_minus_the_bound_and_costs_no_dream() -> None:
    model, x = exact.vae(), exact.data()
    losses = {}
    for objective in (RWS(3, True, True), IWAE(3)):
        pyro.set_rng_seed(0)
        loss = objective.loss(model.model, model.guide, x)
        losses[type(objective)] = (loss, torch.rand(()).item())
    assert losses[RWS] == pytest.approx(losses[IWAE], rel=1e-12)
    means = [mean_loss(model, x.numpy(), o) for o in (WakeSleep(), IWAE(1))]
    assert means[0] == pytest.approx(means[1], rel=1e-12)


def test_labels_and_running_statistics() -> None:
    labelled = make(CASE["m2-labelled"])
    x = tensors(CASE["m2-labelled"].inputs(0))
    loss = RWS(2, True, True).differentiable_loss(labelled.model, labelled.guide, *x)
    loss.backward()
    assert all(p.grad is not None for n, p in labelled.named_parameters() if "encoder" in n)
    states = []
    for objective in (RWS(2), RWS(2, True, True)):
        model = make(CASE["hierarchical-norm"]).train()
        x = tensors(CASE["hierarchical-norm"].inputs(0))
        pyro.set_rng_seed(0)
        objective.differentiable_loss(model.model, model.guide, *x).backward()
        states.append(dict(model.named_buffers()))
    before = dict(make(CASE["hierarchical-norm"]).named_buffers())
    assert all(torch.equal(states[0][name], states[1][name]) for name in before)
    moved = [name for name in before if not torch.equal(states[0][name], before[name])]
    assert {name.split(".")[0] for name in moved} == {"encoders", "conditionals", "decoder"}


@pytest.mark.parametrize("objective", [RWS(5), RWS(5, True, True), WakeSleep()])
def test_functions_with_pyro_param_are_trained_by_svi(objective: Any) -> None:
    x = 1.0 + 2**0.5 * torch.randn(200)  # what the model has with loc = 1

    def model(x: Tensor) -> None:
        with pyro.plate("data", size=400, subsample_size=200, subsample=torch.arange(200)):
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        slope, shift = (pyro.param(name, torch.tensor(0.0)) for name in ("slope", "shift"))
        with pyro.plate("data", size=400, subsample_size=200, subsample=torch.arange(200)):
            pyro.sample("z", dist.Normal(x * slope + shift, 0.5**0.5))

    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), loss=objective)
    for _ in range(250):
        svi.step(x)
    loc = pyro.param("loc").item()
    assert abs(loc - x.mean().item()) < 0.2
    assert abs(pyro.param("slope").item() - 0.5) < 0.1
    assert abs(pyro.param("shift").item() - loc / 2) < 0.15


def test_what_cannot_be_simulated_is_refused() -> None:
    x = data()
    subsampled = Numbers(size=8)

    def model(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("x_2", dist.Normal(z, 1.0), obs=c)

    def guide(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    def auxiliary(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("a", dist.Normal(x, 1.0), infer={"is_auxiliary": True})

    def twice(x: Tensor, c: Tensor) -> None:
        model(x, x)

    refused: list[tuple[Callable[..., None], Callable[..., None], tuple[Tensor, ...], str]] = [
        (subsampled.model, subsampled.guide, (x,), "'x' .* argument as it is.* a value computed"),
        (model, guide, (x, x), "'x' .*observed one that is used twice: use RWS with sleep_phi="),
        (twice, guide, (x, x + 1), "'x_2' .*observed one that is used twice"),
        (model, auxiliary, (x, x + 1), "'a' should be drawn by the model, .* the guide alone"),
    ]
    for p, q, given, says in refused:
        assert RWS(2).differentiable_loss(p, q, *given).isfinite()
        for objective in (WakeSleep(), RWS(2, True, True)):
            with pytest.raises(ValueError, match=says):
                objective.differentiable_loss(p, q, *given)


def test_wrong_arguments_are_named() -> None:
    for arguments, says in (
        ((0,), "k should be a whole number of at least 1, was 0"),
        ((1,), "k should be at least 2 with wake_phi, was 1: .* use WakeSleep"),
        ((2, False, False), "wake_phi or sleep_phi should be True"),
        ((2, 0.5), "wake_phi should be True or False, was 0.5"),
    ):
        with pytest.raises(ValueError, match=says):
            RWS(*arguments)  # type: ignore[arg-type]
    marked = Toy(3, marked=True)
    for objective in (RWS(2), WakeSleep()):
        with pytest.raises(ValueError, match="'y' should not be enumerated by the guide"):
            objective.loss(marked.model, marked.guide, torch.randn(3))
