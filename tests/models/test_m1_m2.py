"""M1's features, M1+M2's bound written out, and M2 on features that are drawn anew."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from cases import X_DIM, N
from m2_by_hand import trunk
from pyro.infer import TraceEnum_ELBO
from sklearn.svm import SVC
from support import CASE, assert_same, gradients, make, tensors
from torch import Tensor

from ppl_vae import ELBO, SemiSupervised, digits, fit, hide_labels, mean_loss
from ppl_vae.data import Dynamic, NormalFeatures
from ppl_vae.inference.batches import Batches
from ppl_vae.models import M1, M1M2, M2, DiagNormalNet
from ppl_vae.shared.training.history import fingerprint

K = pytest.mark.parametrize("k", [1, 3])
GREY = np.random.default_rng(0).random((N, X_DIM)).astype(np.float32)
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


def joint() -> tuple[M1M2, Tensor, Tensor]:
    model = make(CASE["m1-m2-semi-supervised"]).double()
    return model, *tensors(CASE["m1-m2-labelled"].data(1), torch.double)


def normal(net: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    h = trunk(net.trunk.layers, *inputs)
    return net.loc(h), (0.5 * net.log_var(h)).exp()


def log_normal(value: Tensor, loc: Any, scale: Tensor) -> Tensor:
    square = ((value - loc) / scale) ** 2
    return (-0.5 * square - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def below(model: M1M2, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """A draw of z_1, (k, n, d), and log p(x | z_1) - log q(z_1 | x) there, (k, n)."""
    loc, scale = normal(model.encoder, x)
    z_1 = loc + scale * torch.randn(k, *loc.shape, dtype=torch.double)
    p = torch.sigmoid(model.decoder.logits(trunk(model.decoder.trunk.layers, z_1)))
    log_p = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    return z_1, log_p - log_normal(z_1, loc, scale)


def above(model: M1M2, z_1: Tensor, y: Tensor, eps: Tensor) -> Tensor:
    """log p(z_1 | y, z_2) p(y) p(z_2) - log q(z_2 | z_1, y) at z_2 of noise eps, (k, n)."""
    one_hot = torch.eye(model.n_classes, dtype=z_1.dtype)[y].expand(*z_1.shape[:-1], -1)
    loc, scale = normal(model.encoder_2, z_1, one_hot)
    z_2 = loc + scale * eps
    log_p = log_normal(z_1, *normal(model.decoder_2, z_2, one_hot)) - math.log(model.n_classes)
    return log_p + log_normal(z_2, 0, torch.ones_like(z_2)) - log_normal(z_2, loc, scale)


def noise(model: M1M2, n_classes: int, z_1: Tensor) -> Tensor:
    shape = (n_classes, *z_1.shape[:-1], model.encoder_2.loc.out_features)
    return torch.randn(shape, dtype=torch.double)


@K
def test_the_bound_is_the_sum_over_classes_written_out(k: int) -> None:
    model, x, _ = joint()

    def ours() -> Tensor:
        return ELBO(k).differentiable_loss(model.model, model.guide, x)

    def by_hand() -> Tensor:
        z_1, bound = below(model, x, k)
        hidden = trunk(model.classifier.trunk.layers, z_1)
        log_q = F.log_softmax(model.classifier.logits(hidden), -1)
        for c, eps in enumerate(noise(model, model.n_classes, z_1)):
            y = torch.full((len(x),), c)
            bound = bound + log_q[..., c].exp() * (above(model, z_1, y, eps) - log_q[..., c])
        return -bound.sum() / k

    parameters = list(model.parameters())
    assert_same(gradients(ours, parameters), gradients(by_hand, parameters))


@K
def test_labelled_data_have_no_sum(k: int) -> None:
    model, x, y = joint()
    parameters = [p for name, p in model.named_parameters() if "classifier" not in name]

    def ours() -> Tensor:
        return ELBO(k).differentiable_loss(model.model, model.guide, x, y)

    def by_hand() -> Tensor:
        z_1, bound = below(model, x, k)
        (eps,) = noise(model, 1, z_1)
        return -(bound + above(model, z_1, y, eps)).sum() / k

    assert_same(gradients(ours, parameters), gradients(by_hand, parameters))


@K
def test_it_is_trace_enum_elbo_on_the_same_draws(k: int) -> None:
    model, x, _ = joint()
    trace_enum = TraceEnum_ELBO(max_plate_nesting=1, num_particles=k, vectorize_particles=k > 1)
    losses = [
        lambda loss=loss: loss.differentiable_loss(model.model, model.guide, x)
        for loss in (ELBO(k), trace_enum)
    ]
    assert_same(*(gradients(loss, model.parameters()) for loss in losses))


def test_with_m1_held_fixed_it_is_m2_on_draws_of_z_1() -> None:
    model, x, _ = joint()
    parts = {"encoder": model.encoder_2, "decoder": model.decoder_2, "classifier": model.classifier}
    m2 = M2(4, 3, prior=model.prior, **parts).double()

    def joint_loss() -> Tensor:
        return ELBO().differentiable_loss(model.model, model.guide, x)

    def stacked_loss() -> Tensor:
        with torch.no_grad():
            z_1, constant = below(model, x, 1)
        return ELBO().differentiable_loss(m2.model, m2.guide, z_1[0]) - constant.sum()

    parameters = list(m2.parameters())
    assert_same(gradients(joint_loss, parameters), gradients(stacked_loss, parameters))


def test_the_product_with_z_1_is_not_repeated_for_each_class() -> None:
    model, x, _ = joint()
    seen = []
    layer = model.encoder_2.trunk.layers[0]
    layer.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].shape, out.shape)))
    ELBO(2).differentiable_loss(model.model, model.guide, x)
    assert seen == [((2, N, 4), (3, 2, N, 4))]


def test_predictions_are_those_of_the_mean_of_z_1_without_dropout() -> None:
    model = make(CASE["m1-m2-semi-supervised"])
    for net in (model.encoder, model.classifier):
        net.trunk.dropout_in = 0.5
    loc, _ = normal(model.encoder, torch.tensor(GREY))
    logits = model.classifier.logits(trunk(model.classifier.trunk.layers, loc))
    expected = logits.softmax(-1).detach()
    torch.testing.assert_close(model.predict_proba(Dynamic(GREY)), expected)
    assert model.predict(GREY.astype("f8")).equal(expected.argmax(-1))
    assert model.training


@pytest.mark.parametrize(
    "given", [GREY, torch.tensor(GREY), GREY.astype("f8"), Dynamic(GREY)], ids=lambda x: type(x)
)
def test_features_are_mean_and_scale_of_the_encoder(given: Any) -> None:
    model = make(CASE["m1"])
    model.encoder.trunk.dropout_in = 0.5
    mean, scale = model.features(given)
    loc, deviation = normal(model.encoder, torch.tensor(GREY))
    torch.testing.assert_close(mean, loc.detach())
    torch.testing.assert_close(scale, deviation.detach())
    assert mean.shape == scale.shape == (N, 2)
    assert model.training
    assert not mean.requires_grad


@pytest.mark.slow
def test_classifiers_on_features_of_digits() -> None:
    train, _, test = digits(binarisation="dynamic")
    pyro.set_rng_seed(0)
    m1 = M1(64, 10, (128,))
    fit(m1, train.x, epochs=100, lr=3e-3, **QUIET)
    features, unseen = (NormalFeatures(*m1.features(part.x)) for part in (train, test))
    svm = SVC().fit(m1.features(train.x)[0], train.y)
    # Untrained 0.76, the pixels' grey levels themselves 0.98.
    assert (svm.predict(m1.features(test.x)[0]) == test.y).mean() > 0.87
    active = features.active()
    n = int(active.sum())
    assert 5 <= n < 10
    m2 = M2(n, 10, 5, (50,), decoder=DiagNormalNet((5, 10), n, (50,)))
    y = hide_labels(train.y, 200, seed=0, n_classes=10)
    fit(m2, (features.select(active), y), SemiSupervised(1.0), epochs=60, lr=3e-3, **QUIET)
    assert (m2.predict(unseen.select(active)).numpy() == test.y).mean() > 0.75


MEAN, SCALE = np.array([[-1.0, 0.0, 20.0]], "f4"), np.array([[0.5, 0.0, 2.0]], "f4")
MANY = NormalFeatures(np.tile(MEAN, (4000, 1)), np.tile(SCALE, (4000, 1)))


def assert_drawn_anew(epochs: list[np.ndarray]) -> None:
    for draw in epochs:
        assert draw.dtype == np.float32
        np.testing.assert_allclose(draw.mean(0), MEAN[0], atol=0.13)
        np.testing.assert_allclose(draw.std(0), SCALE[0], rtol=0.05)
    noise = [((draw - MEAN) / np.maximum(SCALE, 1e-9))[:, [0, 2]] for draw in epochs]
    assert abs((noise[0] * noise[1]).mean()) < 0.05  # not the last epoch's
    assert abs((noise[0][:, 0] * noise[0][:, 1]).mean()) < 0.07  # nor the other feature's


def test_each_epoch_draws_features_anew() -> None:
    y = np.arange(4000)
    pyro.set_rng_seed(0)
    batches = Batches((MANY, y, Dynamic(np.full((4000, 1), 0.3))), torch.device("cpu"), torch.float)
    assert len(batches) == 4000
    order = torch.arange(4000).flip(0)
    (one, index, bits), (two, *_) = batches[order], batches[order]
    assert index.equal(order)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert_drawn_anew([one.numpy(), two.numpy(), MANY.sample(0)])


def test_each_epoch_draws_features_anew_in_the_port() -> None:
    support = pytest.importorskip("port_support")
    from ppl_vae.numpyro.inference.batches import Batches as PortBatches

    jnp, y, bits = support.jnp, np.arange(4000), Dynamic(np.full((4000, 1), 0.3))
    batches = PortBatches((bits, MANY, y), support.jax.devices()[0], np.float32)
    assert len(batches) == 4000
    order = np.arange(4000)[::-1].copy()
    (bit, one, index), (_, two, _) = (
        batches.take(batches.arrays, jnp.asarray(order), support.key(s)) for s in (0, 1)
    )
    assert np.array_equal(index, order)
    assert set(np.unique(bit)) == {0.0, 1.0}
    assert_drawn_anew([np.asarray(one), np.asarray(two)])


def two_classes() -> tuple[NormalFeatures, np.ndarray, np.ndarray]:
    """Features of which the first tells the class, the labels (four known), and the classes."""
    rng = np.random.default_rng(0)
    classes = np.arange(200) % 2
    mean = rng.normal(size=(200, 3)) * 0.3
    mean[:, 0] += np.where(classes == 1, 2.0, -2.0)
    y = np.where(np.arange(200) < 4, classes, -1)
    return NormalFeatures(mean, np.full((200, 3), 0.2)), y, classes


def test_m2_learns_from_features(tmp_path: Path) -> None:
    x, y, classes = two_classes()
    pyro.set_rng_seed(0)
    m2 = M2(3, 2, 2, (8,), decoder=DiagNormalNet((2, 2), 3, (8,)))
    settings: dict[str, Any] = {"batch_size": 50, "lr": 1e-2, "out": tmp_path, **QUIET}
    fit(m2, (x, y), SemiSupervised(1.0), epochs=20, **settings)
    assert (m2.predict(x).numpy() == classes).mean() > 0.97
    assert mean_loss(m2, x, seed=3) == mean_loss(m2, x.sample(3), seed=3)
    wider = NormalFeatures(x.mean, 2 * x.scale)
    with pytest.raises(ValueError, match=r"data was .* is now"):
        fit(m2, (wider, y), SemiSupervised(1.0), epochs=21, resume=True, **settings)
    fit(m2, (x, y), SemiSupervised(1.0), epochs=21, resume=True, **settings)
    assert fingerprint([x]) != fingerprint([x.mean])


@pytest.mark.slow
def test_the_port_has_the_same_features_and_learns_from_them() -> None:
    support = pytest.importorskip("port_support")
    import ppl_vae.numpyro.models as ports
    from ppl_vae.numpyro import inference

    for case in (CASE["m1"], CASE["m1-m2-semi-supervised"]):
        model, port = support.make_pair(case.model)
        port = port.with_weights(model.state_dict())
        look = "features" if case.name == "m1" else "predict_proba"
        ours, theirs = getattr(model, look)(GREY), getattr(port, look)(Dynamic(GREY))
        np.testing.assert_allclose(np.stack([*ours]), np.stack([*theirs]), rtol=1e-5, atol=1e-6)
    x, y, classes = two_classes()
    decoder = ports.DiagNormalNet((2, 2), 3, (8,), key=support.key(1))
    m2 = ports.M2(3, 2, 2, (8,), decoder=decoder, key=support.key())
    settings: dict[str, Any] = {"epochs": 20, "batch_size": 49, "lr": 1e-2, **QUIET}
    m2 = inference.fit(m2, (x, y), inference.SemiSupervised(1.0), **settings).model
    assert (m2.predict(x) == classes).mean() > 0.97


def test_active_features_are_those_whose_means_differ() -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(1500, 4)) * np.array([1.0, 0.08, 0.12, 0.0])
    mean[1000:, 3] = rng.normal(size=500)  # after the first 1000
    features = NormalFeatures(mean, np.full_like(mean, 5.0))
    active = features.active()
    assert active.tolist() == [True, False, True, False]
    assert features.active(n=1500).tolist() == [True, False, True, True]
    assert features.active(threshold=0.5).tolist() == [True, False, False, False]
    chosen = features.select(active)[:7]
    assert chosen.shape == (7, 2)
    np.testing.assert_array_equal(chosen.mean, mean[:7, [0, 2]].astype("f4"))
    np.testing.assert_array_equal(chosen.scale, np.full((7, 2), 5.0))


ONE = NormalFeatures(GREY, GREY)
BAD: dict[str, tuple[Any, str]] = {
    "z_dims": (
        lambda: M1M2(z_dims=(3, 3, 3), hidden=((4,), (4,), (4,))),
        r"z_dims should be the sizes of z_1 and z_2, was \(3, 3, 3\)",
    ),
    "hidden": (lambda: M1M2(hidden=((600, 600),)), "hidden should be one sequence .* had 1"),
    "features": (
        lambda: make(CASE["m1"]).features(GREY[:, :5]),
        r"x should have shape \(n, 6\), had \(24, 5\)",
    ),
    "features-range": (lambda: make(CASE["m1"]).features(GREY + 1), r"x should lie in \[0, 1\]"),
    "predict": (
        lambda: make(CASE["m1-m2-labelled"]).predict(GREY * np.nan),
        "x should be finite, held NaN",
    ),
    "labels": (
        lambda: fit(make(CASE["m1-m2-labelled"]), (GREY, np.full(N, 3)), epochs=1, **QUIET),
        "y should be classes 0 to 2, held 3 to 3",
    ),
    "mean": (lambda: NormalFeatures(GREY[0], GREY), r"mean should have shape .*, had \(6,\)"),
    "mean-nan": (lambda: NormalFeatures(GREY * np.nan, GREY), "mean should be finite"),
    "mean-integer": (lambda: NormalFeatures(GREY.astype(int), GREY), "mean should be of a float"),
    "scale": (lambda: NormalFeatures(GREY, -1 - GREY), r"scale should lie in \[0, inf\], lay in"),
    "scale-shape": (lambda: NormalFeatures(GREY, GREY[:5]), r"scale .*\(24, 6\), had \(5, 6\)"),
    "threshold": (lambda: ONE.active(9.0), r"threshold should be less than .*, 0\.\d+, was 9.0"),
    "threshold-negative": (lambda: ONE.active(-1.0), "threshold should be at least 0, was -1.0"),
    "n": (lambda: ONE.active(n=1), "n should be a whole number of at least 2, was 1"),
    "bernoulli": (
        lambda: fit(make(CASE["vae"]), ONE, epochs=1, **QUIET),
        r"x should lie in \[0, 1\], was NormalFeatures, which is drawn from \(-inf, inf\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        call()
