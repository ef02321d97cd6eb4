"""Discrete latents: exact sums against sums written out and TraceEnum_ELBO, and score functions."""

import math
from collections.abc import Callable
from typing import Any

import m2_by_hand
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import TraceEnum_ELBO
from support import CASE, assert_same, assert_unbiased, gradients, make, tensors
from torch import Tensor
from toy import Toy

from ppl_vae import ELBO
from ppl_vae.models import M2

K = pytest.mark.parametrize("k", [1, 3])


def trace_enum(k: int) -> TraceEnum_ELBO:
    return TraceEnum_ELBO(max_plate_nesting=1, num_particles=k, vectorize_particles=k > 1)


def m2() -> tuple[M2, Tensor, Tensor]:
    model = make(CASE["m2-unlabelled"]).double()
    return model, *tensors(CASE["m2-labelled"].data(1), torch.double)


@K
def test_m2_unlabelled_is_the_sum_over_classes_written_out(k: int) -> None:
    model, x, _ = m2()
    parameters = list(model.parameters())

    def ours() -> Tensor:
        return ELBO(k).differentiable_loss(model.model, model.guide, x)

    def by_hand() -> Tensor:
        eps = m2_by_hand.noise(model, len(x), k, labelled=False)
        return -m2_by_hand.minus_u(model, x, eps).sum()

    assert_same(gradients(ours, parameters), gradients(by_hand, parameters))


@K
def test_m2_labelled_is_equation_6_written_out(k: int) -> None:
    model, x, y = m2()
    parameters = [p for name, p in model.named_parameters() if "classifier" not in name]

    def ours() -> Tensor:
        return ELBO(k).differentiable_loss(model.model, model.guide, x, y)

    def by_hand() -> Tensor:
        (eps,) = m2_by_hand.noise(model, len(x), k, labelled=True)
        return -sum(m2_by_hand.minus_l(model, x, y, draw).sum() for draw in eps) / k

    assert_same(gradients(ours, parameters), gradients(by_hand, parameters))


@K
def test_m2_is_trace_enum_elbo_on_the_same_draws(k: int) -> None:
    model, x, _ = m2()
    losses = [
        lambda loss=loss: loss.differentiable_loss(model.model, model.guide, x)
        for loss in (ELBO(k), trace_enum(k))
    ]
    assert_same(*(gradients(loss, model.parameters()) for loss in losses))


@pytest.mark.parametrize("n_classes", [2, 3], ids=["bernoulli", "categorical"])
@pytest.mark.parametrize("normal", [dist.Normal, NonreparameterizedNormal], ids=["path", "score"])
@pytest.mark.parametrize("marked", [True, False], ids=["summed", "drawn"])
def test_gradients_are_unbiased_with_and_without_score_functions(
    n_classes: int, normal: Any, marked: bool
) -> None:
    toy, x = Toy(n_classes, marked, normal), torch.randn(3, dtype=torch.double)

    def flat(loss: Callable[[], Tensor], seed: int) -> Tensor:
        return torch.cat([g.reshape(-1) for g in gradients(loss, toy.parameters, seed)])

    draws = torch.stack([flat(toy.loss(ELBO(2000), x), seed) for seed in range(50)])
    exact = flat(lambda: -toy.bound(x).sum(), 0)
    assert_unbiased(draws, exact)
    assert (draws.std(0) / 50**0.5 < 0.03 * (1 + exact.abs())).all()


@K
def test_a_sum_over_y_that_z_depends_on_is_trace_enum_elbo(k: int) -> None:
    toy, x = Toy(3, marked=True), torch.randn(5, dtype=torch.double)
    ours, theirs = (
        gradients(toy.loss(loss, x), toy.parameters) for loss in (ELBO(k), trace_enum(k))
    )
    assert_same(ours, theirs)


@K
@pytest.mark.parametrize("n_classes", [2, 3], ids=["bernoulli", "categorical"])
def test_a_site_of_the_model_alone_is_summed_out_inside_the_logarithm(
    k: int, n_classes: int
) -> None:
    toy, x = Toy(n_classes, marked=True), torch.randn(5, dtype=torch.double)
    parameters = [toy.pi, toy.m, toy.a, toy.g, toy.s, toy.h]

    def by_hand() -> Tensor:
        eps = torch.randn(k, 5, dtype=torch.double)
        scale = toy.s[0].exp()
        z = toy.g[0] + toy.h * x + scale * eps
        log_p = [
            toy.pi.log_softmax(-1)[y] - 0.5 * (x - toy.a * z - toy.m[y]) ** 2
            for y in range(n_classes)
        ]
        log_p_x = torch.stack(log_p).logsumexp(0) - 0.5 * math.log(2 * math.pi)
        return -(log_p_x - 0.5 * z**2 + 0.5 * eps**2 + scale.log()).sum() / k

    losses = [toy.loss(loss, x, toy.guide_of_z) for loss in (ELBO(k), trace_enum(k))]
    ours, theirs, hand = (gradients(loss, parameters) for loss in (*losses, by_hand))
    assert_same(ours, hand)
    assert_same(ours, theirs)


AROUND: dict[str, Callable[[Any], Any]] = {
    "scale": lambda program: poutine.scale(program, scale=2.5),
    "mask": lambda program: poutine.mask(program, mask=torch.arange(6) % 2 == 0),
    "subsample": lambda program: program,
}


@K
@pytest.mark.parametrize("in_guide", [True, False], ids=["both", "model-alone"])
@pytest.mark.parametrize("name", AROUND)
def test_scales_and_masks_around_a_sum(name: str, in_guide: bool, k: int) -> None:
    toy, x = Toy(3, marked=True), torch.randn(6, dtype=torch.double)
    toy.subsample_size = 4 if name == "subsample" else None
    guide = AROUND[name](toy.guide if in_guide else toy.guide_of_z)
    model = AROUND[name](toy.model)
    losses = [
        lambda loss=loss: loss.differentiable_loss(model, guide, x)
        for loss in (ELBO(k), trace_enum(k))
    ]
    parameters = toy.parameters if in_guide else [toy.pi, toy.m, toy.a, toy.g, toy.s, toy.h]
    assert_same(*(gradients(loss, parameters) for loss in losses))


@pytest.mark.parametrize(
    "handler", [poutine.scale(scale=0.5), poutine.mask(mask=torch.arange(6) % 2 == 0)]
)
def test_a_sum_in_the_model_needs_one_scale_and_mask_for_all_sites(handler: Any) -> None:
    toy, x = Toy(3, marked=True), torch.randn(6, dtype=torch.double)
    toy.around_label = lambda: handler
    with pytest.raises(ValueError, match="one scale and mask where the model sums"):
        toy.loss(ELBO(), x, toy.guide_of_z)()


def test_a_sum_in_the_model_has_no_closed_kl() -> None:
    toy, x = Toy(3, marked=True), torch.randn(5, dtype=torch.double)
    with pytest.raises(ValueError, match=r"analytic_kl should be False.*'y'.*was True"):
        toy.loss(ELBO(analytic_kl=True), x, toy.guide_of_z)()
