"""Path derivatives against exact gradients, and against a copy of the guide that is held fixed."""

import copy
from collections.abc import Callable
from typing import Any

import bounds
import linear_gaussian as exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import HIERARCHICAL, LADDER
from draws_support import HANDLERS, PARAMETERS, A, B, C, Numbers, data
from plates_support import Globals
from pyro import poutine
from pyro.infer import SVI
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO, Model
from ppl_vae.inference import CUBO, IWAE, STL, DReG
from ppl_vae.inference.draws import draw
from ppl_vae.models import HierarchicalVAE, LadderVAE

TWO: list[Any] = [
    pytest.param(STL(2), lambda log_w: log_w.mean(-2), id="STL"),
    pytest.param(DReG(2), bounds.log_mean_exp, id="DReG"),
]
BOTH = pytest.mark.parametrize("objective", [STL(3), DReG(3)], ids=["STL", "DReG"])


def loss_of(pair: Any, objective: Any, *data: Tensor) -> Callable[[], Tensor]:
    return lambda: objective.differentiable_loss(pair.model, pair.guide, *data)


@pytest.mark.parametrize(("objective", "bound"), TWO)
def test_value_and_gradients_are_those_of_the_expected_bound(
    objective: Any, bound: bounds.Bound
) -> None:
    model, x = bounds.pair()
    loss = -bounds.expected(bound, *bounds.of_vae(model, x)).sum()
    bounds.assert_expected(objective, model, x, list(model.parameters()), loss)


@BOTH
def test_the_gradient_of_the_guide_is_zero_at_the_posterior(objective: Any) -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    for seed in range(3):
        found = gradients(loss_of(model, objective, x), model.encoder.parameters(), seed)
        assert max(grad.abs().max() for grad in found[1:]) < 1e-10
        assert all(grad.abs().max() > 0.1 for grad in exact_score(model, x, seed))


def exact_score(model: Any, x: Tensor, seed: int) -> list[Tensor]:
    """The gradient of the ELBO, which is not zero in a draw."""
    return gradients(loss_of(model, ELBO(3), x), model.encoder.parameters(), seed)[1:]


@pytest.mark.parametrize(("objective", "other"), [(STL(3), ELBO(3)), (DReG(3), IWAE(3))])
def test_the_value_and_the_gradient_of_the_model_are_as_without(objective: Any, other: Any) -> None:
    model, x = exact.vae(), exact.data()
    parameters = list(model.decoder.parameters())
    losses = [gradients(loss_of(model, o, x), parameters) for o in (objective, other)]
    assert_same(*losses)
    pyro.set_rng_seed(0)
    assert objective.loss(model.model, model.guide, x) == losses[0][0].item()


def fixed_guide(model: Model, x: Tensor, k: int, weights: Callable[[Tensor], Any]) -> Tensor:
    """The surrogate with log q and log p of a copy whose parameters are fixed, at the same draws.

    Only the draws lead back to the parameters of the guide, and only log p at fixed draws to those
    of the model.
    """
    fixed = copy.deepcopy(model).requires_grad_(False)
    draws = draw(model.model, model.guide, x, k=k)
    values = {name: site.value for name, site in draws.guide.items()}

    def at(pair: Model, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log p and log q of given values."""
        given = poutine.condition(pair.guide, data=values)
        sites = draw(poutine.condition(pair.model, data=values), given, x, k=k)
        log_p = sum(site.log_prob for site in sites.model.values())
        return log_p, sum(site.log_prob for site in sites.guide.values())

    log_p, log_q = at(fixed, values)
    value, of_model, of_guide = weights((log_p - log_q).detach())
    held = {name: z.detach() for name, z in values.items()}
    surrogate = (of_model * at(model, held)[0] + of_guide * (log_p - log_q)).sum()
    return value.sum() + surrogate - surrogate.detach()


def stl(log_w: Tensor) -> Any:
    mean = torch.full_like(log_w, -1 / len(log_w))
    return -log_w.mean(0), mean, mean


def dreg(log_w: Tensor) -> Any:
    share = log_w.softmax(0)
    return -bounds.log_mean_exp(log_w), -share, -(share**2)


def cubo(log_w: Tensor) -> Any:
    share = (2 * log_w).softmax(0)
    return (2 * log_w).exp().mean(0).log() / 2, 0 * share, -share


@pytest.mark.parametrize(
    ("objective", "weights"), [(STL(3), stl), (DReG(3), dreg), (CUBO(2, 3), cubo)]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: HierarchicalVAE(**HIERARCHICAL),
        lambda: LadderVAE(**LADDER, batch_norm=False),
    ],
    ids=["hierarchical", "ladder-shared-networks"],
)
def test_paths_through_several_layers(make: Any, objective: Any, weights: Any) -> None:
    model, x = make().double(), torch.rand(4, 6).round().double()
    parameters = list(model.parameters())
    ours = gradients(loss_of(model, objective, x), parameters)
    by_hand = gradients(lambda: fixed_guide(model, x, 3, weights), parameters)
    for a, b in zip(ours, by_hand, strict=True):
        # None at all, or zeros.
        torch.testing.assert_close(a.to(b).expand(b.shape), b, rtol=1e-9, atol=1e-9)
    assert sum(grad.any() for grad in ours) > 10


class Chain:
    """Plain functions: z_1 ~ q, z_2 ~ q(z_2 | z_1), with tensors that no module holds."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(torch.zeros_like(A), 1.0))
            z_1 = pyro.sample("z_1", dist.Normal(z_2, 1.0))
            pyro.sample("x", dist.Normal(z_1, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z_1 = pyro.sample("z_1", dist.Normal(A * x, 1.0))
            pyro.sample("z_2", dist.Normal(B * z_1, C.exp()))


def test_the_path_through_one_latent_into_the_next_is_kept() -> None:
    x = data()

    def by_hand() -> Tensor:
        a, b, c = (value.detach() for value in (A, B, C))
        sites = draw(Chain().model, Chain().guide, x).guide
        z_1, z_2 = sites["z_1"].value, sites["z_2"].value
        log_p = bounds.standard_normal(z_2) + bounds.standard_normal(z_1 - z_2)
        log_p = log_p + bounds.standard_normal(x - z_1)
        log_q = bounds.standard_normal(z_1 - a * x)
        log_q = log_q + bounds.standard_normal((z_2 - b * z_1) / c.exp()) - c
        return -(log_p - log_q).sum()

    assert_same(gradients(loss_of(Chain(), STL(), x), PARAMETERS), gradients(by_hand, PARAMETERS))


def test_several_latents_get_the_gradient_of_the_importance_weighted_bound() -> None:
    x = data()[:2].repeat(3000)

    def spread(objective: Any) -> tuple[Tensor, Tensor]:
        loss = loss_of(Chain(), objective, x)
        grads = torch.stack(
            [torch.stack(torch.autograd.grad(loss(), PARAMETERS)) / 3000 for _ in range(50)]
        )
        return grads.mean(0), grads.var(0) / len(grads)

    (ours, ours_var), (theirs, theirs_var) = spread(DReG(3)), spread(IWAE(3))
    error = (ours_var + theirs_var).sqrt()
    assert ((ours - theirs).abs() < 4 * error).all()
    assert (ours.abs() > 20 * error).any()


class Positive(Numbers):
    """z is exp of a normal number: a transformed distribution."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros_like(A), 1.0))
            pyro.sample("x", dist.Normal(A * z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(B * x, C.exp()))


def test_transformed_distributions() -> None:
    x = data()

    def by_hand() -> Tensor:
        b, c = B.detach(), C.detach()
        z = draw(Positive().model, Positive().guide, x).guide["z"].value
        log_p = bounds.standard_normal(z.log()) + bounds.standard_normal(x - A.detach() * z)
        path = log_p - bounds.standard_normal((z.log() - b * x) / c.exp()) + c
        model = bounds.standard_normal(x - A * z.detach())
        return -(path + model - model.detach()).sum()

    ours = gradients(loss_of(Positive(), STL(), x), PARAMETERS)
    assert_same(ours, gradients(by_hand, PARAMETERS))


def test_signal_of_the_guide_s_gradient_grows_with_the_particles() -> None:
    """Rainforth et al. 2018: that of IWAE falls like 1 / sqrt(K)."""
    model, x = bounds.pair()
    weight = model.encoder.loc.weight

    def spread(objective: Any) -> tuple[float, float]:
        grads = torch.stack(
            [torch.autograd.grad(loss_of(model, objective, x)(), weight)[0] for _ in range(300)]
        )
        return grads.mean(0).norm().item(), grads.std(0).norm().item()

    ratio = {}
    for k in (4, 256):
        mean, of_dreg = spread(DReG(k))
        ratio[k] = mean / of_dreg, mean / spread(IWAE(k))[1]
    assert ratio[256][0] > 3 * ratio[4][0]
    assert ratio[256][1] < 0.4 * ratio[4][1]


@BOTH
def test_a_scale_multiplies_the_gradient(objective: Any) -> None:
    plain, scaled, x = Numbers(), Numbers(both=HANDLERS["scale"]), data()
    expected = gradients(loss_of(plain, objective, x), PARAMETERS)
    found = gradients(loss_of(scaled, objective, x), PARAMETERS)
    assert_same(found, [2.5 * value for value in expected], tolerance=1e-6)


def test_a_class_that_only_the_model_enumerates() -> None:
    toy, x = Toy(3, marked=True), torch.randn(5, dtype=torch.double)
    of_model = [toy.pi, toy.m, toy.a]
    losses = [gradients(toy.loss(o, x, toy.guide_of_z), of_model) for o in (DReG(3), IWAE(3))]
    assert_same(*losses)


def test_functions_with_pyro_param_are_trained_by_svi() -> None:
    x = 1.0 + 2.0 * torch.randn(100)
    net = torch.nn.Linear(1, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=50) as index:
            z = pyro.sample("z", dist.Normal(1.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x), subsample_size=50) as index:
            scale = pyro.param("scale", torch.tensor(1.5), constraint=dist.constraints.positive)
            pyro.sample("z", dist.Normal(net(x[index, None]).squeeze(-1), scale))

    for objective in (STL(2), DReG(5)):
        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=objective)
        for _ in range(200):
            svi.step(x)
        # In the limit without any noise, as the gradient is zero at the posterior.
        assert pyro.param("scale").item() == pytest.approx(0.5**0.5, abs=0.01)
        assert net.weight.item() == pytest.approx(0.5, abs=0.01)


def test_what_has_no_such_gradient_is_refused() -> None:
    toy, marked = Toy(3, marked=False), Toy(3, marked=True)
    shared = Globals(lambda: dist.Normal(0.0, 1.0))
    unequal = Numbers()
    unequal.likelihood_only = HANDLERS["scale"]
    x = data()
    for objective in (STL(2), DReG(2)):
        for pair, says in (
            (toy, "'y' should be reparametrised, was drawn from a Categorical: use IWAE"),
            (marked, "'y' should not be enumerated by the guide"),
            (shared, "'w' should lie in the data plate"),
            (unequal, "all sites should have one scale"),
        ):
            with pytest.raises(ValueError, match=says):
                objective.loss(pair.model, pair.guide, x)
    with pytest.raises(ValueError, match="k should be a whole number of at least 1, was 0"):
        STL(0)
