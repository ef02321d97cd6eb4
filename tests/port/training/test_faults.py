"""What the port does when a loss or a gradient is not finite, or when it is asked to stop."""

import re
import signal

import numpy as np
import pytest
from cases import VAE, pixels
from port_support import jax, jnp, key, numpyro

import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import ELBO, Lagging, fit
from ppl_vae.numpyro.inference.training.steps import Steps
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.faults import RESTORES, fresh_seed
from ppl_vae.shared.training.metrics import Metrics
from ppl_vae.shared.training.turns import Turn

QUIET = {"progress": False, "device": "cpu"}
SETTINGS = {"epochs": 1, "batch_size": 8, **QUIET}
MARK = 5.0
"""What the first pixel of a datum is that brings about a fault."""


class Marked(ports.VAE):
    """A VAE with a fault in batches that hold a marked datum: of its loss, or of its gradient."""

    fault: str

    def __init__(self, fault):
        arguments = {**VAE, "hidden": (3,)}
        super().__init__(**arguments, key=key())
        self.fault = fault

    def model(self, x):
        good = 1.0 - (x[:, 0] == MARK).any()
        weight = self.decoder.logits.bias.sum()
        if self.fault == "loss":
            term = jnp.where(good > 0, 0.0, jnp.nan)
        else:  # the derivative of the root is infinite at 0, and 0 times that is NaN
            term = 0.0 * jnp.sqrt(good * weight**2)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", self.prior())
            fn = numpyro.distributions.Bernoulli(logits=self.decoder(z).base_dist.logits + term)
            numpyro.sample("x", fn.to_event(1), obs=jnp.minimum(x, 1.0))

    def check(self, *data):
        pass


class First(Marked):
    """The same, with a fault if the first datum of a batch is marked."""

    def model(self, x):
        super().model(jnp.where(jnp.arange(len(x))[:, None] == 0, x, jnp.minimum(x, 1.0)))


class InOrder(ELBO):
    """Batches that begin at these places, in this order."""

    def __init__(self, starts):
        super().__init__()
        self.starts = starts

    def batches(self, batch_size, generator, *data):
        return [np.arange(start, start + batch_size) for start in self.starts]


class InTwoTurns(InOrder):
    """Steps of the one parameter that a fault of the gradient has, and then of all others."""

    def group_of(self, parameter):
        return "at fault" if parameter == "decoder.logits.bias" else "others"

    def turns(self):
        return Turn("at fault"), Turn("others")


def marked(*places):
    (x,) = pixels(0)
    x[list(places), 0] = MARK
    return x


def same(a, b):
    return all(np.array_equal(v, b.state_dict()[name]) for name, v in a.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            "loss",
            r"loss should be finite, was (nan|inf) at {}; first site at fault: 'x', whose logits "
            "is NaN",
        ),
        (
            "gradient",
            r"gradient should be finite, was not at {}, of the loss \d\.\d+; first parameter at "
            r"fault: 'decoder\.logits\.bias', whose gradient is NaN",
        ),
    ],
)
def test_it_stops_and_keeps_the_batch(fault, says, tmp_path):
    model, x = Marked(fault), marked(11)
    place = int(np.flatnonzero(np.random.default_rng([0, 1]).permutation(24) == 11)[0])
    where = f"epoch 1, batch {place // 8 + 1} of 3"
    with pytest.raises(FloatingPointError, match=says.format(where)) as raised:
        fit(model, x, out=tmp_path, **SETTINGS)
    path = tmp_path / "fault.safetensors"
    assert f"The batch is in {str(path)!r}" in str(raised.value)
    arrays, text = safetensors_file.read(path)
    assert 11 in arrays["indices"]
    assert arrays["indices"].shape == (8,)
    assert np.array_equal(arrays["data.0"], x[arrays["indices"]])
    assert where in text["fault"]
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_without_a_folder_no_file_is_named():
    with pytest.raises(FloatingPointError) as raised:
        fit(Marked("gradient"), marked(11), **SETTINGS)
    assert "The batch is in" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_step_that_is_skipped_changes_nothing(fault, tmp_path):
    model, x = Marked(fault), marked(20)
    settings = {**SETTINGS, "epochs": 2, "on_nan": "skip"}
    run = fit(model, x, InOrder([0, 8, 16]), out=tmp_path, **settings)
    short = fit(model, x, InOrder([0, 8]), **{**settings, "on_nan": "stop"})
    for name, value in short.model.state_dict().items():
        np.testing.assert_allclose(run.model.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    assert not same(run.model, model)
    np.testing.assert_allclose(run["loss"], short["loss"], rtol=1e-6)
    assert run["skipped"].tolist() == [1.0, 1.0]
    assert "skipped" not in short.rows[0]
    arrays, _ = safetensors_file.read(tmp_path / "checkpoint.safetensors")
    assert arrays["optimizer.0"] == 4  # Adam counts the steps of two epochs


@pytest.mark.slow
def test_the_steps_after_one_that_is_skipped_are_taken():
    model, x = Marked("loss"), marked(1)
    run = fit(model, x, InOrder([0, 8, 16]), on_nan="skip", **SETTINGS)
    alone = fit(model, x, InOrder([8, 16]), **SETTINGS)  # with other random numbers
    assert run["skipped"].tolist() == [1.0]
    for name, value in alone.model.state_dict().items():
        first, now = model.state_dict()[name], run.model.state_dict()[name]
        np.testing.assert_allclose(abs(now - first).max(), abs(value - first).max(), rtol=0.2)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_an_epoch_of_which_nothing_is_left_stops(fault, tmp_path):
    model, x = Marked(fault), marked(0, 8, 16)
    says = rf"every batch of epoch 1 had a skipped step; the first fault: {fault} .* batch 1 of 3.*"
    with pytest.raises(FloatingPointError, match=says + "batch is in"):
        fit(model, x, InOrder([0, 8, 16]), on_nan="skip", out=tmp_path, **SETTINGS)
    arrays, text = safetensors_file.read(tmp_path / "fault.safetensors")
    assert arrays["indices"].tolist() == list(range(8))
    assert re.fullmatch(says, text["fault"])


def test_a_batch_counts_only_if_every_turn_of_it_changed_something():
    model, settings = Marked("gradient"), {**SETTINGS, "on_nan": "skip"}
    run = fit(model, marked(20), InTwoTurns([0, 8, 16]), **settings)
    short = fit(model, marked(20), InTwoTurns([0, 8]), **settings)
    assert run["skipped"].tolist() == [1.0]
    np.testing.assert_allclose(run["loss"], short["loss"], rtol=1e-6)
    with pytest.raises(
        FloatingPointError, match=r"epoch 1 had a skipped step; .* epoch 1, batch 1 of"
    ):
        fit(model, marked(0, 8, 16), InTwoTurns([0, 8, 16]), **settings)


@pytest.mark.slow
def test_a_step_that_is_skipped_ends_its_turn(monkeypatch):
    """The guide is stepped on random batches, one twelfth of which are at fault."""
    seen, inner = [], Steps._step

    def step(self, run, group, *inputs):
        run, loss = inner(self, run, group, *inputs)
        jax.debug.callback(lambda good: seen.append((group, bool(good))), run[1].good, ordered=True)
        return run, loss

    monkeypatch.setattr(Steps, "_step", step)
    objective = Lagging(InOrder(range(0, 24, 2)), max_steps=6, window=2)
    settings = {**SETTINGS, "epochs": 2, "batch_size": 2}
    run = fit(Marked("loss"), marked(1), objective, on_nan="skip", **settings)
    jax.effects_barrier()
    bad = [place for place, (_, good) in enumerate(seen) if not good]
    assert run["skipped"].sum() == len(bad)
    of_guide = [place for place in bad if seen[place][0] == "guide"]
    assert of_guide
    assert all(seen[place + 1][0] == "model" for place in of_guide)
    assert np.isfinite(run["loss"]).all()


def firsts(seed, epoch):
    """The data that the two batches of an epoch begin with."""
    return np.random.default_rng([seed, epoch]).permutation(24)[[0, 12]].tolist()


def warnings_of(caplog):
    return [r.message for r in caplog.records if r.message.endswith("The epoch begins again")]


@pytest.mark.slow
def test_an_epoch_begins_again_with_other_random_numbers(tmp_path, caplog):
    """Epoch 2 is at fault with the seed of the run, and not with the next one."""
    at_fault = firsts(0, 2)[1]
    assert at_fault not in firsts(fresh_seed(0, 1), 2) + firsts(0, 1)
    model, x = First("gradient"), marked(at_fault)
    settings = {"batch_size": 12, **QUIET}
    with pytest.raises(FloatingPointError, match=r"gradient should be finite.* epoch 2"):
        fit(model, x, epochs=2, out=tmp_path, **settings)
    resumed = fit(model, x, epochs=2, out=tmp_path, resume=True, on_nan="restore", **settings)
    whole = fit(model, x, epochs=2, on_nan="restore", **settings)
    assert same(resumed.model, whole.model)
    assert np.isfinite(whole["loss"]).all()
    assert len(warnings_of(caplog)) == 2
    assert all("epoch 2, batch 2 of 2" in message for message in warnings_of(caplog))


@pytest.mark.slow
def test_what_is_restored_is_the_state_before_the_epoch(caplog):
    """A first epoch that begins again is the first epoch of a run with the fresh seed."""
    at_fault, fresh = firsts(0, 1)[1], fresh_seed(0, 1)
    assert at_fault not in firsts(fresh, 1)
    model, x = First("gradient"), marked(at_fault)
    settings = {**SETTINGS, "batch_size": 12}
    restored = fit(model, x, on_nan="restore", **settings)
    assert len(warnings_of(caplog)) == 1
    assert same(restored.model, fit(model, x, seed=fresh, **settings).model)
    assert fresh_seed(0, 0) == 0


def test_it_begins_again_a_few_times_only(tmp_path, caplog):
    with pytest.raises(FloatingPointError, match="loss should be finite"):
        fit(Marked("loss"), marked(3), on_nan="restore", out=tmp_path, **SETTINGS)
    assert len(warnings_of(caplog)) == RESTORES
    assert (tmp_path / "fault.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_epoch(sign, tmp_path, capsys):
    model, (x,) = Marked("loss"), pixels(0)
    settings = {**SETTINGS, "epochs": 3}

    def ask(_):
        ask.epoch += 1
        if ask.epoch == 2:
            signal.raise_signal(sign)
        return {}

    ask.epoch = 0
    with pytest.raises(SystemExit) as ended:
        fit(model, x, out=tmp_path, validation=ask, **settings)
    assert ended.value.code == 128 + sign
    line = f"stopped after epoch 2; resume=True (--resume) goes on from {str(tmp_path)!r}\n"
    assert capsys.readouterr().err == line
    resumed = fit(model, x, out=tmp_path, resume=True, **settings)
    assert len(resumed.rows) == 3
    assert same(resumed.model, fit(model, x, **settings).model)


def test_data_that_are_not_finite_are_refused():
    x = pixels(0)[0].astype(np.float32)
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="x should be finite, held NaN or infinity"):
        fit(ports.VAE(**{**VAE, "hidden": (3,)}, key=key()), x, **SETTINGS)


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_by_another_policy(tmp_path):
    """Epoch 2 is at fault. What a row does not have is NaN in it, also in the file."""
    at_fault = firsts(0, 2)[0]
    assert at_fault not in firsts(0, 1) + firsts(0, 3)
    model, x = First("loss"), marked(at_fault)
    settings = {"batch_size": 12, "out": tmp_path, **QUIET}
    with pytest.raises(FloatingPointError, match="epoch 2, batch 1"):
        fit(model, x, epochs=3, **settings)
    fit(model, x, epochs=2, resume=True, on_nan="skip", **settings)
    run = fit(model, x, epochs=3, resume=True, **settings)
    np.testing.assert_array_equal(run["skipped"], [np.nan, 1.0, np.nan])
    assert run["epoch"].tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_equal(Metrics(tmp_path, 3).rows, run.rows)
