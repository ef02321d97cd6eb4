"""Batch normalisation: torch's numbers, where it stands in models, and what moves it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, labelled, pixels
from support import CASE, equal, make, objective_of, tensors
from torch import Tensor, nn

import ppl_vae.models as models
from ppl_vae import ELBO, fit, log_likelihood, mean_loss
from ppl_vae.inference.draws import draw
from ppl_vae.models import BatchNorm, HierarchicalVAE, LadderVAE, Model

N, DIM = 7, 3
LADDER = CASE["ladder-beta"]
NORMALISED = [case for case in CASES if case.name in ("ladder-beta", "hierarchical-norm")]
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


def pair() -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Ours and torch's, of one weight and bias."""
    ours, theirs = BatchNorm(DIM).double(), nn.BatchNorm1d(DIM).double()
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.tensor([0.5, -2.0, 3.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return ours, theirs


def batch(*leading: int) -> Tensor:
    return 5.0 + 3.0 * torch.randn(*leading, DIM, dtype=torch.double)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name: v.clone() for name, v in state.items() if ".running_" in f".{name}"}


@pytest.mark.parametrize("leading", [(N,), (4, N), (2, 4, N)], ids=str)
def test_values_gradients_and_running_statistics_are_torchs(leading: tuple[int, ...]) -> None:
    ours, theirs = pair()
    assert set(ours.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    for training in (True, True, True, False):
        x = batch(*leading).requires_grad_()
        found = []
        for norm, values in ((ours, x), (theirs, x.reshape(-1, DIM))):
            y = norm.train(training)(values).reshape(-1, DIM)
            total = (y * torch.linspace(-1, 2, y.numel(), dtype=torch.double).view_as(y)).sum()
            found.append([y, *torch.autograd.grad(total, [x, norm.weight, norm.bias])])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


def test_evaluation_is_of_each_datum_alone_and_moves_nothing() -> None:
    norm, _ = pair()
    norm(batch(N))
    before, x = statistics(norm), batch(2, N)
    norm.eval()
    whole = norm(x)
    torch.testing.assert_close(norm(x[1, 3]), whole[1, 3])
    assert equal(statistics(norm), before)


def test_one_value_has_no_variance() -> None:
    says = "batch should hold at least 2 values of each feature for .*, held 1: .* batch_size"
    with pytest.raises(ValueError, match=says):
        BatchNorm(DIM)(torch.randn(1, DIM))
    with pytest.raises(ValueError, match="dim should be a whole number of at least 1, was 0"):
        BatchNorm(0)
    with pytest.raises(ValueError, match=says):
        fit(make(LADDER), pixels(0), epochs=1, batch_size=23, **QUIET)


def test_an_mlp_by_hand() -> None:
    net = models.MLP((2, 1), (4, 3), "tanh", batch_norm=True).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    a, b = torch.randn(5, N, 2).double(), torch.randn(5, N, 1).double()
    h = np.concatenate([a, b], -1)
    for layer, norm in zip(net.layers, net.norms, strict=True):
        v = h @ layer.weight.detach().numpy().T
        v = (v - v.mean((0, 1))) / np.sqrt(v.var((0, 1)) + 1e-5)
        h = np.tanh(v * norm.weight.detach().numpy() + norm.bias.detach().numpy())
    np.testing.assert_allclose(net(a, b).detach(), h, rtol=1e-12)


def test_names() -> None:
    plain, normalised = (models.MLP(2, (4, 3), batch_norm=on) for on in (False, True))
    layers = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert list(plain.state_dict()) == layers
    kinds = ("weight", "bias", "running_mean", "running_var")
    norms = [f"norms.{i}.{kind}" for i in (0, 1) for kind in kinds]
    # A bias before the normalisation would be taken away by it, and never get a gradient.
    assert list(normalised.state_dict()) == ["layers.0.weight", "layers.1.weight", *norms]


@pytest.mark.parametrize(
    "name", ["DiagNormalNet", "BernoulliNet", "CategoricalNet", "RankOneNormalNet"]
)
def test_networks_hand_it_to_their_trunk(name: str) -> None:
    cls = getattr(models, name)
    sizes = [norm.weight.numel() for norm in cls(2, 3, (5, 4), batch_norm=True).trunk.norms]
    assert sizes == [5, 4]
    assert not len(cls(2, 3, (5, 4)).trunk.norms)


@pytest.mark.parametrize("cls", [LadderVAE, HierarchicalVAE])
def test_it_stands_in_every_hidden_layer_and_in_no_output(cls: type[Any]) -> None:
    arguments = (6, (3, 2), ((5, 4), (4,)))
    model = cls(*arguments, batch_norm=True)
    assert sum(isinstance(m, BatchNorm) for m in model.modules()) == 2 + 1 + 1 + 2
    for net in (*model.encoders, *model.conditionals, model.decoder):
        assert len(net.trunk.norms) == len(net.trunk.layers) > 0
    plain = cls(*arguments, batch_norm=False)
    assert not [m for m in plain.modules() if isinstance(m, BatchNorm)]
    by_default = cls(*arguments)
    assert by_default.describe() == (model if cls is LadderVAE else plain).describe()


def first_batch(model: Model, x: Tensor) -> dict[str, Tensor]:
    """The statistics of q(z_1 | x)'s first layer after one look at x."""
    trunk: Any = model.encoders[0].trunk  # type: ignore[union-attr,index]
    v = (x @ trunk.layers[0].weight.T).detach()
    return {"running_mean": 0.1 * v.mean(0), "running_var": 0.9 + 0.1 * v.var(0)}


def assert_first_batch(model: Model, expected: dict[str, Tensor]) -> None:
    norm: Any = model.encoders[0].trunk.norms[0]  # type: ignore[union-attr,index]
    for name, value in expected.items():
        torch.testing.assert_close(getattr(norm, name), value)


def test_the_conditionals_of_a_ladder_move_twice_in_a_step() -> None:
    model, (x,) = make(LADDER), tensors(pixels(0))
    expected = first_batch(model, x)
    sites = draw(model.model, model.guide, x, k=2).guide
    assert_first_batch(model, expected)
    conditional: Any = model.conditionals[0].trunk  # type: ignore[union-attr,index]
    v = (sites["z_2"].value @ conditional.layers[0].weight.T).detach().reshape(2 * len(x), -1)
    mean, var = conditional.norms[0].running_mean, conditional.norms[0].running_var
    torch.testing.assert_close(mean, (1 - 0.9**2) * v.mean(0))
    torch.testing.assert_close(var, 0.9**2 + (1 - 0.9**2) * v.var(0))
    decoder: Any = model.decoder.trunk  # type: ignore[union-attr]
    v = (sites["z_1"].value @ decoder.layers[0].weight.T).detach().reshape(2 * len(x), -1)
    torch.testing.assert_close(decoder.norms[0].running_mean, 0.1 * v.mean(0))


@pytest.mark.parametrize("case", NORMALISED, ids=lambda case: case.name)
def test_fit_moves_them_once_for_each_batch(case: Any) -> None:
    model, (x,) = make(case), tensors(pixels(0))
    expected, before = first_batch(model, x), statistics(model)
    fit(model, pixels(0), objective_of(case), epochs=1, batch_size=len(x), **QUIET)
    assert_first_batch(model, expected)  # also of the first batch, which is checked once more
    assert not [name for name, v in statistics(model).items() if v.equal(before[name])]


def test_what_looks_at_a_model_leaves_them() -> None:
    model, plain = make(LADDER), make(LADDER)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, **QUIET}
    fit(plain, pixels(0), **settings)
    fit(model, pixels(0), validation=pixels(1), **settings)
    assert equal(model.state_dict(), plain.state_dict())
    loss = mean_loss(model, pixels(1), batch_size=5)
    log_likelihood(model, pixels(1), k=3)
    model.sample(4)
    model.reconstruct(*pixels(1))
    assert equal(model.state_dict(), plain.state_dict())
    assert mean_loss(model, pixels(1), batch_size=5) == loss


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 9, "lr": 1e-2, **QUIET}
    whole, half, resumed = make(LADDER), make(LADDER), make(LADDER, seed=9)
    fit(whole, pixels(0), ELBO(2), epochs=4, **settings)
    fit(half, pixels(0), ELBO(2), epochs=2, out=tmp_path, **settings)
    fit(resumed, pixels(0), ELBO(2), epochs=4, out=tmp_path, resume=True, **settings)
    assert len(statistics(whole)) == 2 * 8
    assert equal(resumed.state_dict(), whole.state_dict())


def test_a_file_keeps_them(tmp_path: Path) -> None:
    net = models.CategoricalNet(6, 3, (5,), batch_norm=True)
    model = models.Classifier(6, 3, classifier=net)
    fit(model, labelled(0), epochs=3, batch_size=8, lr=1e-2, **QUIET)
    model.save(tmp_path / "model")
    loaded = models.Classifier.load(tmp_path / "model")
    assert equal(loaded.state_dict(), model.state_dict())
    x, _ = labelled(1)
    assert loaded.predict_proba(x).equal(model.predict_proba(x))
    state = model.state_dict()
    del state["classifier.trunk.norms.0.running_var"]
    with pytest.raises(ValueError, match=r"missing: \['classifier.trunk.norms.0.running_var'\]"):
        loaded.with_weights(state)
