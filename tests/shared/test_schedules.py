"""Step sizes that change with the epoch: their values, and what `fit` makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import CASE, equal, make

from ppl_vae import fit
from ppl_vae.inference import ExponentialDecay, Piecewise, Schedule

VAE = CASE["vae"]
SETTINGS: dict[str, Any] = {"batch_size": 10, "progress": False}


class FirstEpochOnly(Schedule):
    """A step size of which nothing is left after the first epoch."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def __call__(self, epoch: Any) -> Any:
        return self.lr * (epoch == 1) + 1e-30


def test_exponential_decay_falls_by_one_factor_per_epoch_and_stays() -> None:
    values = [ExponentialDecay(1e-1, 1e-3, 5)(epoch) for epoch in range(1, 8)]
    np.testing.assert_allclose(values[:5], np.geomspace(1e-1, 1e-3, 5))
    np.testing.assert_allclose(values[5:], 1e-3)


def test_stages_follow_one_another_and_the_last_one_stays() -> None:
    lr = Piecewise([3.0, 2.0, 1.0], [1, 2, 1])
    assert [lr(epoch) for epoch in range(1, 7)] == [3.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    burda = Piecewise.burda()
    assert sum(burda.epochs) == 3280
    firsts = [(3**i - 1) // 2 + 1 for i in range(8)]
    np.testing.assert_allclose([burda(epoch) for epoch in firsts], np.geomspace(1e-3, 1e-4, 8))
    np.testing.assert_allclose([burda(epoch - 1) for epoch in firsts[1:]], burda.values[:-1])
    assert Schedule.from_description(burda.describe()).values == burda.values


def test_fit_asks_for_the_step_size_of_each_epoch() -> None:
    one, two, other = (make(VAE) for _ in range(3))
    fit(one, VAE.data(0), epochs=1, lr=1e-2, **SETTINGS)
    fit(two, VAE.data(0), epochs=3, lr=FirstEpochOnly(1e-2), **SETTINGS)
    fit(other, VAE.data(0), epochs=3, lr=1e-2, **SETTINGS)
    assert equal(one.state_dict(), two.state_dict())
    assert not equal(one.state_dict(), other.state_dict())


@pytest.mark.slow
def test_fit_of_the_port_does_too() -> None:
    port_support = pytest.importorskip("port_support")
    from ppl_vae.numpyro.inference import fit as fit_port

    port = port_support.make_pair(VAE.model)[1]
    one = fit_port(port, VAE.data(0), epochs=1, lr=1e-2, **SETTINGS).model
    two = fit_port(port, VAE.data(0), epochs=3, lr=FirstEpochOnly(1e-2), **SETTINGS).model
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(two.state_dict()[name], value)


def test_a_resumed_run_has_the_same_schedule(tmp_path: Path) -> None:
    lr, data = ExponentialDecay(1e-2, 1e-4, 4), VAE.data(0)
    whole, first, rest = (make(VAE) for _ in range(3))
    fit(whole, data, epochs=4, lr=lr, **SETTINGS)
    fit(first, data, epochs=2, lr=lr, out=tmp_path, **SETTINGS)
    fit(rest, data, epochs=4, lr=lr, out=tmp_path, resume=True, **SETTINGS)
    assert equal(whole.state_dict(), rest.state_dict())
    other = ExponentialDecay(1e-2, 1e-3, 4)
    with pytest.raises(ValueError, match=r"lr\.arguments\.end was 0\.0001"):
        fit(make(VAE), data, epochs=4, lr=other, out=tmp_path, resume=True, **SETTINGS)
    with pytest.raises(ValueError, match=r"lr was .* when the run started and is now 0.01"):
        fit(make(VAE), data, epochs=4, lr=1e-2, out=tmp_path, resume=True, **SETTINGS)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="start should be a positive number, was 0"):
        ExponentialDecay(0, 1, 3)
    with pytest.raises(ValueError, match="end should be a positive number, was -1"):
        ExponentialDecay(1, -1, 3)
    with pytest.raises(ValueError, match="epochs should be a whole number of at least 2, was 1"):
        ExponentialDecay(1, 1, 1)
    with pytest.raises(ValueError, match=r"entry for each stage, were \[1.0, 0.1\] and \[1\]"):
        Piecewise([1.0, 0.1], [1])
    with pytest.raises(ValueError, match="each of values should be a positive number, was 0"):
        Piecewise([0.0], [1])
    with pytest.raises(ValueError, match="stages should be a whole number of at least 1, was 0"):
        Piecewise.burda(0)
    with pytest.raises(ValueError, match="lr should be a positive number, was '1'"):
        fit(make(VAE), VAE.data(0), epochs=1, lr="1", **SETTINGS)  # type: ignore[arg-type]
