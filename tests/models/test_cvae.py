"""CVAE, GSNN and their hybrid objective against closed forms of linear Gaussian conditionals."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from linear_gaussian import JointLinear
from support import CASE, assert_same, assert_unbiased, gradients, make, tensors
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae import ELBO, fit
from ppl_vae.inference import Hybrid
from ppl_vae.inference.draws import draw
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.models import CVAE, GSNN, BernoulliNet, DiagNormalNet, Model

N, X_DIM, C_DIM, Z_DIM = 4, 4, 3, 2
MASK = torch.tensor([True, True, True, False])
LOG_2PI = math.log(2 * math.pi)


def linear(baseline: bool = False) -> CVAE:
    """Every factor is linear with a constant scale."""
    guess = (X_DIM,) if baseline else ()
    model = CVAE(
        X_DIM,
        C_DIM,
        Z_DIM,
        (5,),
        prior=JointLinear((C_DIM, *guess), Z_DIM),
        encoder=JointLinear((X_DIM, C_DIM, *guess), Z_DIM),
        decoder=JointLinear((Z_DIM, C_DIM), X_DIM),
        baseline=JointLinear((C_DIM,), X_DIM) if baseline else None,
    ).double()
    if model.baseline is not None:
        model.baseline.log_var.requires_grad_(False)  # of the guess only the mean is used
    return model


def data(masked: bool = False) -> tuple[Tensor, ...]:
    c, x = (torch.randn(N, dim, dtype=torch.double) for dim in (C_DIM, X_DIM))
    return (c, x, MASK.expand(N, X_DIM)) if masked else (c, x)


def log_likelihood(model: GSNN, q: Any, c: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """E_{N(m, v)} log p(x | c, z) of each datum."""
    weight = model.decoder.loc.weight[:, :Z_DIM]
    mean = model.decoder(q.loc, c).base_dist.loc
    log_var = model.decoder.log_var
    square = (x - mean) ** 2 + q.variance @ (weight**2).T
    log_p = -0.5 * (LOG_2PI + log_var + square / log_var.exp())
    return (log_p if mask is None else log_p * mask).sum(-1)


def seen(model: GSNN, c: Tensor) -> tuple[Tensor, ...]:
    return (c,) if model.baseline is None else (c, model.baseline.loc(c))


def gsnn_bound(model: GSNN, c: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return log_likelihood(model, model.prior(*seen(model, c)).base_dist, c, x, mask)


def cvae_bound(model: CVAE, c: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    kept = x if mask is None else x * mask
    q = model.encoder(kept, *seen(model, c)).base_dist
    p = model.prior(*seen(model, c)).base_dist
    return log_likelihood(model, q, c, x, mask) - kl_divergence(q, p).sum(-1)


def log_evidence(model: GSNN, c: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """log p(x | c) of each datum, or of what the mask leaves of it."""
    weight = model.decoder.loc.weight[:, :Z_DIM]
    p = model.prior(*seen(model, c)).base_dist
    mean = model.decoder(p.loc, c).base_dist.loc
    covariance = weight @ torch.diag(p.variance[0]) @ weight.T
    covariance = covariance + torch.diag(model.decoder.log_var.exp())
    keep = torch.ones(X_DIM, dtype=torch.bool) if mask is None else mask[0]
    return MultivariateNormal(mean[:, keep], covariance[keep][:, keep]).log_prob(x[:, keep])


BOUNDS = {
    "cvae": (ELBO(2000), cvae_bound),
    "cvae-kl": (ELBO(2000, analytic_kl=True), cvae_bound),
    "hybrid": (
        Hybrid(0.3, k=2000),
        lambda m, *d: 0.3 * cvae_bound(m, *d) + 0.7 * gsnn_bound(m, *d),
    ),
    "hybrid-1": (Hybrid(1.0, k=2000), cvae_bound),
}


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("baseline", [False, True], ids=["plain", "baseline"])
@pytest.mark.parametrize("name", BOUNDS)
def test_value_and_gradients_are_those_of_the_known_bound(
    name: str, baseline: bool, masked: bool
) -> None:
    model, (objective, bound), arrays = linear(baseline), BOUNDS[name], data(masked)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def flat(loss: Tensor) -> Tensor:
        grads = torch.autograd.grad(loss, parameters)
        return torch.cat([loss.detach().reshape(1), *(grad.reshape(-1) for grad in grads)])

    expected = flat(-bound(model, *arrays).sum())
    replicates = torch.stack(
        [flat(objective.differentiable_loss(model.model, model.guide, *arrays)) for _ in range(40)]
    )
    assert_unbiased(replicates, expected, errors=4.5)
    assert (replicates.std(0) / 40**0.5 < 0.05 * (1 + expected.abs())).all()
    assert (bound(model, *arrays) < log_evidence(model, *arrays)).all()


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_it_is_the_evidence_in_every_draw_at_the_posterior(masked: bool) -> None:
    model, arrays, noise = linear(), data(masked), 0.4
    keep = MASK if masked else torch.ones(X_DIM, dtype=torch.bool)
    with torch.no_grad():
        weight = model.decoder.loc.weight[:, :Z_DIM]  # orthogonal where x counts
        orthogonal = torch.linalg.qr(torch.randn(int(keep.sum()), Z_DIM, dtype=torch.double))[0]
        weight[keep] = orthogonal * torch.tensor([1.5, 0.7])
        model.decoder.log_var.fill_(math.log(noise))
        shift, bias = model.decoder.loc.weight[:, Z_DIM:], model.decoder.loc.bias
        prior = model.prior.log_var.exp()
        # p(z | c, x) is proportional to N(z; A c + a, prior) N(x; W z + B c + b, noise)
        variance = 1 / (1 / prior + (weight[keep] ** 2).sum(0) / noise)
        gain = torch.zeros(Z_DIM, X_DIM, dtype=torch.double)
        gain[:, keep] = variance[:, None] * weight[keep].T / noise
        by_c = (variance / prior)[:, None] * model.prior.loc.weight - gain @ shift
        # What does not count may have any weight in the encoder, which is given zeros.
        of_x = torch.where(keep, gain, torch.full_like(gain, 3.0))
        model.encoder.loc.weight.copy_(torch.cat([of_x, by_c], 1))
        model.encoder.loc.bias.copy_(variance / prior * model.prior.loc.bias - gain @ bias)
        model.encoder.log_var.copy_(variance.log())
    expected = log_evidence(model, *arrays)
    for k in (1, 4):
        bound = elbo_per_datum(draw(model.model, model.guide, *arrays, k=k))
        torch.testing.assert_close(bound, expected, rtol=0, atol=1e-10)


def test_gsnn_is_the_cvae_whose_encoder_is_its_prior() -> None:
    prior, encoder = DiagNormalNet(C_DIM, Z_DIM, (5,)), DiagNormalNet((4, C_DIM), Z_DIM, (5,))
    with torch.no_grad():
        encoder.load_state_dict(
            prior.state_dict()
            | {"trunk.layers.0.weight": nn_pad(prior.trunk.layers[0].weight, X_DIM)}
        )
    cvae = CVAE(X_DIM, C_DIM, Z_DIM, (5,), prior=prior, encoder=encoder).double()
    gsnn, (c, x) = cvae.gsnn(), data()
    x = x.sigmoid()
    weights = list(gsnn.parameters())
    assert {id(w) for w in weights} == {
        id(w) for n, w in cvae.named_parameters() if "encoder" not in n
    }
    ours = gradients(loss_of(gsnn, ELBO(3), c, x), weights)
    theirs = gradients(loss_of(cvae, ELBO(3), c, x), cvae.parameters())
    torch.testing.assert_close(ours[0], theirs[0])
    found = dict(zip([n for n, _ in cvae.named_parameters()], theirs[1:], strict=True))
    for (name, _), grad in zip(gsnn.named_parameters(), ours[1:], strict=True):
        expected = found[name]
        if name.startswith("prior."):  # two copies of one network in the CVAE
            other = found[name.replace("prior.", "encoder.")]
            expected = expected + (other if other.shape == grad.shape else other[:, X_DIM:])
        torch.testing.assert_close(grad, expected)


def nn_pad(weight: Tensor, width: int) -> Tensor:
    return torch.cat([weight.new_zeros(len(weight), width), weight], 1)


def loss_of(model: Model, objective: Any, *arrays: Tensor) -> Callable[[], Tensor]:
    return lambda: objective.differentiable_loss(model.model, model.guide, *arrays)


def test_hybrid_of_0_is_gsnn_draw_by_draw() -> None:
    cvae, arrays = linear(), data()
    weights = list(cvae.gsnn().parameters())
    pyro.set_rng_seed(0)
    draw(cvae.model, cvae.guide, *arrays, k=3)  # the draws of the other bound
    state = torch.get_rng_state()
    ours = gradients(loss_of(cvae, Hybrid(0.0, k=3), *arrays), weights, seed=0)
    torch.set_rng_state(state)
    value = loss_of(cvae.gsnn(), ELBO(3), *arrays)()
    theirs = [value.detach(), *torch.autograd.grad(value, weights)]
    assert_same(ours, theirs)


@pytest.mark.parametrize("objective", [ELBO(2), Hybrid(0.4)], ids=["elbo", "hybrid"])
def test_masked_entries_change_neither_loss_nor_gradient(objective: Any) -> None:
    model = make(CASE["cvae-baseline"]).double()
    c, x, mask = tensors(CASE["cvae-baseline"].data(0), torch.double)
    first = gradients(loss_of(model, objective, c, x, mask), model.parameters())
    other = torch.where(mask, x, torch.rand_like(x))
    assert not other.equal(x)
    again = gradients(loss_of(model, objective, c, other, mask), model.parameters())
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    flipped = torch.where(mask, 1 - x, x)
    third = gradients(loss_of(model, objective, c, flipped, mask), model.parameters())
    assert not any(a.equal(b) for a, b in zip(first, third, strict=True))


def test_a_mask_of_true_is_no_mask() -> None:
    model = make(CASE["cvae"]).double()
    c, x = tensors(CASE["cvae"].data(0), torch.double)
    whole = gradients(loss_of(model, ELBO(2), c, x), model.parameters())
    masked = loss_of(model, ELBO(2), c, x, torch.ones_like(x).bool())
    assert_same(gradients(masked, model.parameters()), whole)


def test_classes_are_one_hot_vectors() -> None:
    model, x = CVAE(X_DIM, C_DIM, Z_DIM, (5,)).double(), torch.rand(N, X_DIM, dtype=torch.double)
    y = torch.tensor([0, 2, 1, 2])
    ours = gradients(loss_of(model, ELBO(), y, x), model.parameters())
    vectors = torch.eye(C_DIM, dtype=torch.double)[y]
    assert_same(ours, gradients(loss_of(model, ELBO(), vectors, x), model.parameters()))


def test_a_frozen_baseline_stays_and_a_free_one_is_trained() -> None:
    case = CASE["cvae-baseline"]
    for frozen in (True, False):
        model = make(case)
        model.baseline.requires_grad_(not frozen)
        before = model.baseline.logits.weight.clone()
        fit(model, case.data(0), epochs=1, progress=False)
        assert model.baseline.logits.weight.equal(before) == frozen


def test_the_guess_is_the_baselines_mean() -> None:
    baseline = BernoulliNet(C_DIM, X_DIM, (5,))
    model = CVAE(X_DIM, C_DIM, Z_DIM, (5,), baseline=baseline)
    c, x = torch.rand(N, C_DIM), torch.rand(N, X_DIM)
    guess = torch.sigmoid(baseline.logits(baseline.trunk(c)))
    draws = draw(model.model, model.guide, c, x)
    assert draws.model["z"].fn.mean.allclose(model.prior(c, guess).mean)
    assert draws.guide["z"].fn.mean.allclose(model.encoder(x, c, guess).mean)


def test_draws_for_given_conditions() -> None:
    model = linear(baseline=True)
    (c, _), n = data(), 4000
    drawn = model.sample(n, c[:1].repeat(n, 1))
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {"z": (n, 2), "x": (n, 4)}
    weight = model.decoder.loc.weight[:, :Z_DIM]
    p = model.prior(*seen(model, c[:1])).base_dist
    assert_unbiased(drawn["z"], p.loc[0].detach())
    assert_unbiased(drawn["x"], model.decoder(p.loc, c[:1]).base_dist.loc[0].detach())
    covariance = weight @ torch.diag(p.variance[0]) @ weight.T
    covariance = covariance + torch.diag(model.decoder.log_var.exp())
    torch.testing.assert_close(drawn["x"].T.cov(), covariance.detach(), rtol=0.2, atol=0.3)
    by_class = CVAE(X_DIM, C_DIM, Z_DIM, (5,)).sample(3, np.array([0, 2, 1]))
    assert by_class["x"].shape == (3, X_DIM)
    assert set(by_class["x"].unique().tolist()) <= {0.0, 1.0}
    modes: list[bool] = []
    hook = model.decoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    model.train().sample(4, c)
    hook.remove()
    assert (modes, model.training) == ([False], True)  # drawn in evaluation mode
    with pytest.raises(ValueError, match="c should be 5 conditions, one for each draw, had 4"):
        model.sample(5, c)
    with pytest.raises(ValueError, match=r"c should have shape \(n, 3\), had \(4, 2\)"):
        model.sample(4, c[:, 1:])


def test_the_decoder_may_be_blind_to_the_condition() -> None:
    model = CVAE(X_DIM, C_DIM, Z_DIM, (5,), decoder_sees_c=False)
    assert model.decoder.trunk.layers[0].weight.shape == (5, Z_DIM)
    assert CVAE(X_DIM, C_DIM, Z_DIM, (5,)).decoder.trunk.layers[0].weight.shape == (5, 2 + 3)
    assert model.gsnn().decoder is model.decoder
    assert not model.gsnn().decoder_sees_c


C, X = torch.zeros(5, C_DIM), torch.zeros(5, X_DIM)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ((C, X + 2), r"x should lie in \[0, 1\], lay in \[2, 2\]"),
        ((C, X[:, 1:]), r"x should have shape \(n, 4\), had \(5, 3\)"),
        ((C[:, 1:], X), r"c should have shape \(n, 3\), had \(5, 2\)"),
        ((C.long(), X), r"c should have shape \(n,\), had \(5, 3\)"),
        ((torch.arange(5), X), "c should be classes 0 to 2, held 0 to 4"),
        ((C[0, 0].repeat(5), X), r"c should have shape \(n, 3\), had \(5,\)"),
        ((C, X, X), "mask should be of a boolean type, was float32"),
        ((C, X, X.long()), "mask should be of a boolean type, was int64"),
        ((C, X, X[:, 1:] > 0), r"mask should have shape \(n, 4\), had \(5, 3\)"),
        ((C, X, X[0, 0].repeat(5) > 0), r"mask should have shape \(n, 4\), had \(5,\)"),
        ((C, X, X[1:] > 0), r"data should be arrays of one length, had .*\[5, 5, 4\]"),
        ((X,), r"data should be \(c, x\) or \(c, x, mask\), had 1"),
        ((C * float("nan"), X), "c should be finite"),
    ],
)
@pytest.mark.parametrize("cls", [CVAE, GSNN])
def test_wrong_data_are_named(cls: type[GSNN], arrays: tuple[Tensor, ...], says: str) -> None:
    model = cls(X_DIM, C_DIM, Z_DIM, (5,))
    with pytest.raises(ValueError, match=says):
        model.check(*arrays)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "1"])
def test_wrong_alpha_is_named(alpha: Any) -> None:
    with pytest.raises(ValueError, match=r"alpha should be a number in \[0, 1\], was"):
        Hybrid(alpha)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="c_dim should be a whole number of at least 1, was 0"):
        CVAE(X_DIM, 0, Z_DIM, (5,))
    with pytest.raises(ValueError, match="hidden should name a layer to join 2 inputs"):
        CVAE(X_DIM, C_DIM, Z_DIM, ())


@pytest.mark.slow
def test_the_port_draws_for_given_conditions_and_shares_networks() -> None:
    port_support = pytest.importorskip("port_support")
    model, port = port_support.make_pair(CASE["cvae-baseline"].model)
    port = port.with_weights(model.state_dict())
    gsnn = port.gsnn()
    ours, theirs = model.gsnn().state_dict(), gsnn.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert gsnn.describe() == model.gsnn().describe()
    n = 4000
    c = np.zeros(n, np.int64)
    drawn = port.sample(n, c, key=port_support.key())
    expected = model.sample(n, c)
    for name in ("z", "x"):
        a, b = np.asarray(drawn[name]), expected[name].numpy()
        error = np.sqrt((a.var(0) + b.var(0)) / n)
        assert (np.abs(a.mean(0) - b.mean(0)) < 5 * error).all()
    with pytest.raises(ValueError, match="c should be 5 conditions, one for each draw, had 4000"):
        port.sample(5, c, key=port_support.key())
