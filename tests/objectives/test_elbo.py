"""The ELBO against closed forms: linear Gaussian models, whose bound and log p(x) are known."""

import linear_gaussian as exact
import pyro
import pytest
import torch
from support import assert_same, assert_unbiased, gradients
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae import ELBO
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.models import VAE, DiagNormalNet

REPLICATES = 60


def flat_gradients(model: VAE, loss: torch.Tensor) -> torch.Tensor:
    """The loss, then its gradient by every parameter, as one vector."""
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in grads)])


@pytest.mark.parametrize(
    ("encoder", "k", "analytic_kl"),
    [
        (DiagNormalNet, 300, False),
        (DiagNormalNet, 300, True),
        (exact.UnreparametrisedNet, 3000, False),
        (exact.UnreparametrisedNet, 3000, True),
    ],
    ids=["reparametrised", "reparametrised-kl", "score-function", "score-function-kl"],
)
def test_value_and_gradients_are_those_of_the_known_bound(
    encoder: type[DiagNormalNet], k: int, analytic_kl: bool
) -> None:
    model, x, objective = exact.vae(encoder), exact.data(), ELBO(k, analytic_kl)
    expected = flat_gradients(model, -exact.bound(model, x).sum())
    replicates = [
        flat_gradients(model, objective.differentiable_loss(model.model, model.guide, x))
        for _ in range(REPLICATES)
    ]
    assert_unbiased(torch.stack(replicates), expected)
    # The test can see a gradient that is wrong by a tenth.
    spread = torch.stack(replicates).std(0) / REPLICATES**0.5
    assert (spread < 0.05 * (1 + expected.abs())).all()


def test_it_is_below_the_evidence_by_the_divergence_from_the_posterior() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    draws = [draw(model.model, model.guide, x, k=100) for _ in range(50)]
    bound = torch.stack([elbo_per_datum(d).detach() for d in draws])
    q = model.encoder(x).base_dist
    gap = kl_divergence(
        MultivariateNormal(q.loc, torch.diag_embed(q.variance)), exact.posterior(model, x)
    )
    log_p = exact.log_evidence(model, x)
    assert (gap > 0.1).all()
    assert (bound.mean(0) < log_p).all()
    assert_unbiased(bound, log_p - gap)


@pytest.mark.parametrize("k", [1, 4])
def test_it_is_the_evidence_in_every_draw_at_the_posterior(k: int) -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    for _ in range(10):
        bound = elbo_per_datum(draw(model.model, model.guide, x, k=k))
        torch.testing.assert_close(bound, exact.log_evidence(model, x), rtol=0, atol=1e-10)


def test_analytic_kl_replaces_the_draw_of_the_kl_and_nothing_else() -> None:
    model, x = exact.vae(), exact.data()
    for seed in range(3):
        pyro.set_rng_seed(seed)
        draws = draw(model.model, model.guide, x, k=4)
        drawn = (draws.guide["z"].log_prob - draws.model["z"].log_prob).mean(0)
        closed = elbo_per_datum(draws, analytic_kl=True)
        torch.testing.assert_close(closed, elbo_per_datum(draws) + drawn - exact.kl(model, x))


def test_analytic_kl_is_exact_where_the_data_say_nothing() -> None:
    model, x = exact.vae(), exact.data()
    with torch.no_grad():
        model.decoder.loc.weight.zero_()
        model.decoder.log_var.weight.zero_()

    def known() -> torch.Tensor:
        return -exact.bound(model, x).sum()

    def ours() -> torch.Tensor:
        return ELBO(analytic_kl=True).differentiable_loss(model.model, model.guide, x)

    trained = list(model.encoder.parameters())
    assert_same(gradients(ours, trained, seed=1), gradients(known, trained))
