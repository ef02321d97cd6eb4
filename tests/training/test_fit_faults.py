"""What stops a run, what it is told, and what it leaves behind then."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fit_support import VAE_CASE, run
from pyro.infer import RenyiELBO, TraceGraph_ELBO
from support import equal, make, weights
from torch import nn

from ppl_vae import VAE
from ppl_vae.inference import ELBO, mean_loss
from ppl_vae.inference.training.step import svi_step
from ppl_vae.models import DiagNormalNet


class Poisoned(DiagNormalNet):
    """A decoder that is NaN from its `good`-th call on."""

    def __init__(self, good: int) -> None:
        super().__init__(2, 6, (3,))
        self.good, self.calls = good, 0

    def forward(self, *inputs: torch.Tensor) -> Any:
        self.calls += 1
        broken = self.calls > self.good
        return super().forward(*(inputs if not broken else [inputs[0] * float("nan")]))


def test_a_loss_of_nan_names_the_site_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    # Three batches an epoch, and two calls more for the checks before the first step.
    model = VAE(6, 2, (3,), decoder=Poisoned(good=2 + 3 + 1))
    words = r"was nan at epoch 2, batch 2 of 3; first site at fault: 'x', whose loc is NaN"
    with pytest.raises(FloatingPointError, match=words):
        run(model, epochs=4, out=tmp_path)
    assert all(p.isfinite().all() for p in model.parameters())
    again = VAE(6, 2, (3,), decoder=Poisoned(good=10**6))
    again.decoder.arguments["good"] = model.decoder.arguments["good"]
    history = run(again, epochs=4, out=tmp_path, resume=True)
    assert len(history.rows) == 4
    assert np.isfinite(history["loss"]).all()


class Logarithm(DiagNormalNet):
    """A decoder that is NaN if a draw is, and the next draw need not be."""

    def forward(self, *inputs: torch.Tensor) -> Any:
        return super().forward(inputs[0] + 0 * (1.2 - inputs[0][0, 0]).log())


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_of_one_draw_is_found_in_that_draw(seed: int) -> None:
    model = VAE(6, 2, (3,), decoder=Logarithm(2, 6, (3,)))
    with pytest.raises(FloatingPointError, match=r"first site at fault: 'x', whose loc is NaN"):
        run(model, epochs=20, seed=seed)


def test_an_infinite_latent_is_the_first_site_at_fault() -> None:
    model = make(VAE_CASE)
    with torch.no_grad():
        model.encoder.loc.bias.fill_(3e38)
    says = r"epoch 1, batch 1 of 3.*'z', whose log density is inf"
    with pytest.raises(FloatingPointError, match=says):
        run(model)


def test_a_parameter_that_is_nan_is_named() -> None:
    model = make(VAE_CASE)
    with torch.no_grad():
        model.decoder.logits.bias[2] = float("nan")
    with pytest.raises(ValueError, match=r"'decoder.logits.bias' should be finite"):
        run(model)


def test_a_parameter_without_gradient_is_named() -> None:
    model = make(VAE_CASE)
    model.spare, before = nn.Linear(2, 2), weights(model)
    with pytest.raises(ValueError, match=r"did not: spare\.weight, spare\.bias\. .*requires_grad_"):
        run(model)
    assert equal({name: weights(model)[name] for name in before}, before)
    model.spare.requires_grad_(False)
    run(model)


def test_a_gradient_of_zero_is_warned_of() -> None:
    model = make(VAE_CASE)
    with torch.no_grad():
        model.decoder.logits.weight.zero_()
    with pytest.warns(UserWarning, match=r"exactly zero: decoder\.trunk\.layers\.0\.weight"):
        run(model, epochs=1)


@pytest.mark.parametrize("objective", [TraceGraph_ELBO(), RenyiELBO(alpha=0.5, num_particles=2)])
def test_objectives_without_a_differentiable_loss_are_refused(objective: Any) -> None:
    name = type(objective).__name__
    with pytest.raises(ValueError, match=rf"objective should be .*differentiable_loss, was {name}"):
        run(make(VAE_CASE), objective=objective)


FLAGS = [(name, value) for name in ("resume", "progress") for value in (None, "yes", 1)]


@pytest.mark.parametrize(("name", "value"), FLAGS)
def test_what_is_neither_true_nor_false_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} should be True or False, was {value!r}"):
        run(make(VAE_CASE), out=tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, "yes", 1, 0, np.zeros(2)], ids=repr)
def test_whether_to_compile_is_true_false_or_auto(value: Any) -> None:
    says = re.escape(f"compile should be True, False or 'auto', was {value!r}")
    model, (x,) = make(VAE_CASE), VAE_CASE.data(0)
    with pytest.raises(ValueError, match=says):
        run(model, compile=value)
    with pytest.raises(ValueError, match=says):
        mean_loss(model, x, compile=value)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=says):
        svi_step(model, ELBO(), optimizer, [torch.as_tensor(x)], compile=value)


def test_a_seed_that_numpy_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed should be below 2\*\*32, was 4294967296"):
        run(make(VAE_CASE), seed=2**32)
    run(make(VAE_CASE), seed=2**32 - 1, epochs=1)
