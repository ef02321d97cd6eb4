"""What a step of `fit` does with its gradients: optimizers, clipping, precision of products."""

from typing import Any

import pyro
import pytest
import torch
from support import CASE, make, weights
from torch import Tensor, nn

from ppl_vae import ELBO, fit
from ppl_vae.inference.compilation.precision import matmul_precision
from ppl_vae.inference.training import step_graph
from ppl_vae.inference.training.step import Step, svi_step
from ppl_vae.models import Model
from ppl_vae.shared.training.optimizers import SGD, Adam, Adamax, AdamW, Optimizer

VAE_CASE = CASE["vae"]
(X,) = VAE_CASE.data(0)


@pytest.fixture(autouse=True)
def recorded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they were recorded, without machine code, which takes seconds to make."""
    monkeypatch.setattr(
        step_graph, "compile_graph", lambda recorded, inputs: torch.no_grad()(recorded)
    )


def trained(**settings: Any) -> Model:
    model = make(VAE_CASE).double()
    given: dict[str, Any] = {"epochs": 3, "batch_size": len(X), "lr": 1e-2, "device": "cpu"}
    fit(model, X, progress=False, **{**given, **settings})
    return model


def by_torch(make_optimizer: Any, clip_norm: float | None = None) -> Model:
    """The same, written out with torch's own optimizer."""
    model = make(VAE_CASE).double()
    optimizer = make_optimizer(model.parameters())
    pyro.set_rng_seed(0)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.as_tensor(X).double()[torch.randperm(len(X), generator=order)]
        optimizer.zero_grad()
        (ELBO().differentiable_loss(model.model, model.guide, x) / len(X)).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
    return model


OPTIMIZERS: dict[str, tuple[Optimizer, Any]] = {
    "adam": (
        Adam((0.8, 0.9), eps=1e-3, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 1e-2, (0.8, 0.9), 1e-3, 0.1),
    ),
    "adamw": (AdamW(weight_decay=0.3), lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.3)),
    "adamax": (Adamax(weight_decay=0.1), lambda p: torch.optim.Adamax(p, 1e-2, weight_decay=0.1)),
    "sgd": (SGD(), lambda p: torch.optim.SGD(p, 1e-2)),
    "nesterov": (
        SGD(0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 1e-2, 0.9, weight_decay=0.1, nesterov=True),
    ),
}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs(name: str, compile: bool) -> None:
    settings, make_optimizer = OPTIMIZERS[name]
    ours = weights(trained(optimizer=settings, compile=compile))
    for key, value in weights(by_torch(make_optimizer)).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("norm", [0.05, 1e9])
def test_clipping_is_torchs(norm: float, compile: bool) -> None:
    def make_optimizer(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, 1e-2)

    ours = weights(trained(optimizer=SGD(), clip_norm=norm, compile=compile))
    clipped, free = weights(by_torch(make_optimizer, norm)), weights(by_torch(make_optimizer))
    for key, value in clipped.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-11)
    assert all(torch.equal(free[key], clipped[key]) for key in free) == (norm == 1e9)


def test_settings_of_a_run_are_compared(tmp_path: Any) -> None:
    trained(epochs=1, out=tmp_path, optimizer=AdamW(), clip_norm=1.0)
    for settings, says in (
        ({"clip_norm": 1.0}, "optimizer.class was 'AdamW' when the run started and is now 'Adam'"),
        ({"optimizer": AdamW()}, "clip_norm was 1.0 when the run started and is now None"),
    ):
        with pytest.raises(ValueError, match=says):
            trained(epochs=2, out=tmp_path, resume=True, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optimizer": "adam"}, "optimizer should be Adam"),
        ({"clip_norm": 0.0}, "clip_norm should be .*, was 0.0"),
        ({"precision": "fp8"}, "precision should be one of .*, was 'fp8'"),
        ({"precision": "tf32"}, "precision should be 'fp32' or 'bf16' on cpu, was 'tf32'"),
        ({"precision": "bf16"}, "precision should be 'fp32' for a model in torch.float64"),
    ],
)
def test_wrong_settings_are_named(settings: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        trained(**settings)


def rounded(value: Tensor) -> Tensor:
    return value.bfloat16().float()


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bfloat16_is_of_products_alone(compile: bool) -> None:
    """Factors and result are rounded, and nothing else is."""
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    with matmul_precision("bf16"):
        found = layer(x)
        assert nn.functional.softplus(x).dtype == torch.float32
    assert found.dtype == torch.float32
    assert torch.equal(found, rounded(found))
    exact = rounded(x) @ rounded(layer.weight).t() + rounded(layer.bias)
    torch.testing.assert_close(found, exact, rtol=2**-8, atol=1e-6)
    losses = {}
    for precision in ("fp32", "bf16"):
        model = make(VAE_CASE)
        optimizer = torch.optim.Adam(model.parameters())
        step = svi_step(
            model, ELBO(), optimizer, (torch.as_tensor(X),), compile=compile, precision=precision
        )
        assert isinstance(step, Step)
        pyro.set_rng_seed(0)
        losses[precision] = step(torch.as_tensor(X)).item()
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]
