"""J^alpha against equations 6-9 written out, for M2 and for pairs of the user."""

from typing import Any

import m2_by_hand
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from semi_supervised_support import SEMI, m2
from support import CASE, assert_same, assert_unbiased, gradients, make, tensors, unchanged, weights
from torch import Tensor, nn

from ppl_vae import ELBO, M2, Model, SemiSupervised, fit
from ppl_vae.shared.checks import check_lengths, check_matrix


def j_alpha(model: M2, x: Tensor, y: Tensor, alpha: float, fraction: float, k: int = 1) -> Tensor:
    """Equation 9 for a data set of this size with this fraction of labels."""
    known = y >= 0
    x_l, y_l, x_u = x[known], y[known], x[~known]
    total = torch.zeros((), dtype=x.dtype)
    if len(x_u) > 0:
        eps = m2_by_hand.noise(model, len(x_u), k, labelled=False)
        total = total - (1 - fraction) * m2_by_hand.minus_u(model, x_u, eps).mean()
    if len(x_l) > 0:
        (eps,) = m2_by_hand.noise(model, len(x_l), k, labelled=True)
        bound = sum(m2_by_hand.minus_l(model, x_l, y_l, draw) for draw in eps) / k
        log_q = m2_by_hand.log_q_y(model, x_l)[torch.arange(len(y_l)), y_l]
        total = total - fraction * bound.mean() - alpha * log_q.mean()
    return len(x) * total


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("given", [None, 0.01], ids=["fraction-of-batch", "fraction-given"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 5.0])
def test_it_is_equation_9_written_out(alpha: float, given: float | None, k: int) -> None:
    model, x, y = m2()
    objective = SemiSupervised(alpha, k=k, labelled_fraction=given)
    fraction = (y >= 0).double().mean().item() if given is None else given

    def ours() -> Tensor:
        return objective.differentiable_loss(model.model, model.guide, x, y)

    def by_hand() -> Tensor:
        return j_alpha(model, x, y, alpha, fraction, k)

    parameters = list(model.parameters())
    assert_same(gradients(ours, parameters), gradients(by_hand, parameters))


def test_by_default_it_is_the_sum_of_equations_8_and_9() -> None:
    model, x, y = m2()
    known = y >= 0
    pyro.set_rng_seed(0)
    loss = SemiSupervised(0.1).differentiable_loss(model.model, model.guide, x, y)
    pyro.set_rng_seed(0)
    j = ELBO().differentiable_loss(model.model, model.guide, x[~known])
    j = j + ELBO().differentiable_loss(model.model, model.guide, x[known], y[known])
    log_q = model.classifier(x[known]).log_prob(y[known])
    torch.testing.assert_close(loss, j - 0.1 * len(x) * log_q.mean())


@pytest.mark.parametrize(("labelled", "fraction"), [(True, 1.0), (False, 0.0)])
def test_a_batch_of_one_kind_alone(labelled: bool, fraction: float) -> None:
    model, x, y = m2()
    rows = (y >= 0) == labelled
    x, y = x[rows], y[rows]
    loss = gradients(
        lambda: SemiSupervised().differentiable_loss(model.model, model.guide, x, y),
        model.parameters(),
    )
    by_hand = gradients(lambda: j_alpha(model, x, y, 0.1, fraction), model.parameters())
    assert_same(loss, by_hand)


class Mixture(Model):
    """A user's own pair: y and x alone, with no mark, so the score function is used."""

    def __init__(self, n_classes: int = 3, infer: bool = False) -> None:
        super().__init__()
        self.n_classes, self.x_dim = n_classes, 6
        self.logits, self.means = nn.Linear(6, n_classes), nn.Parameter(torch.randn(n_classes, 6))
        self.infer = {"enumerate": "parallel"} if infer else {}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(self.n_classes)), infer=self.infer)
            pyro.sample("x", dist.Normal(self.means[y], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=self.logits(x)), infer=self.infer)

    def check(self, *data: Any) -> None:
        check_lengths(*data)
        check_matrix("x", data[0], 6)


def test_any_pair_with_a_site_y_is_trained() -> None:
    marked, data = Mixture(infer=True), tensors(SEMI.data(0))
    unmarked = Mixture()
    unmarked.load_state_dict(marked.state_dict())
    (exact, *exact_grads) = gradients(
        lambda: SemiSupervised().differentiable_loss(marked.model, marked.guide, *data),
        marked.parameters(),
    )
    objective = SemiSupervised(k=200)
    draws = [
        gradients(
            lambda: objective.differentiable_loss(unmarked.model, unmarked.guide, *data),
            unmarked.parameters(),
            seed,
        )
        for seed in range(50)
    ]
    for number, expected in enumerate([exact, *exact_grads]):
        assert_unbiased(torch.stack([draw[number] for draw in draws]), expected, errors=4.5)
    losses = fit(marked, SEMI.data(0), SemiSupervised(), epochs=30, lr=0.05, progress=False)["loss"]
    assert losses[-1] < losses[0] - 0.5


def test_svi_trains_every_parameter() -> None:
    model, data = make(SEMI), tensors(SEMI.data(0))
    before = weights(model)
    SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), loss=SemiSupervised()).step(*data)
    assert not unchanged(weights(model), before)


def test_programs_without_a_site_y_are_refused() -> None:
    model = make(CASE["vae"])
    with pytest.raises(ValueError, match=r"a site 'y', had \['z'\]"):
        SemiSupervised().loss(model.model, model.guide, *tensors(SEMI.data(0)))
