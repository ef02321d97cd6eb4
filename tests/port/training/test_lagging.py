"""The port's Lagging: the same groups, steps, phase and resume as Pyro's."""

import numpy as np
import pytest
from cases import CASES, pixels
from lagging_support import GUIDES
from port_support import jax, jnp, key, make_pair, numpyro

from ppl_vae.inference.training.lagging import guide_parameters as guide_parameters_of_pyro
from ppl_vae.numpyro.inference import ELBO, GECO, BaselineNet, SemiSupervised, Warmup, fit
from ppl_vae.numpyro.inference.training import lagging
from ppl_vae.numpyro.inference.training.lagging import Lagging, guide_parameters
from ppl_vae.numpyro.inference.training.steps import NETWORK, Steps, place_of
from ppl_vae.numpyro.models.base import parameters
from ppl_vae.shared.evaluation.elbo_surgery import ElboSurgery
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.turns import Turn

CASE = {case.name: case for case in CASES}
(X,) = pixels(0)
SETTINGS = {"batch_size": 12, "lr": 1e-2, "seed": 3, "progress": False, "device": "cpu"}
SMALL = {"max_steps": 6, "window": 2}


@pytest.mark.parametrize("name", GUIDES)
def test_the_parameters_of_the_guide_are_those_of_pyro(name):
    model, port = make_pair(CASE[name].model)
    data = CASE[name].inputs(0)
    assert set(guide_parameters(port, *data)) == set(guide_parameters_of_pyro(model, *data))


@pytest.fixture
def series(monkeypatch):
    """What will be measured after each epoch; the first is what `prepare` finds."""
    found = []

    def surgery(model, data, **settings):
        value = Estimate(np.full(2, found.pop(0)), np.full(2, np.nan))
        return ElboSurgery(value, value)

    monkeypatch.setattr(lagging, "elbo_surgery", surgery)
    return found


@pytest.fixture
def recorded(monkeypatch):
    """Of each step: its group, the names of the weights that it changed, and its loss."""
    seen, inner = [], Steps._step

    def step(self, run, group, *inputs):
        (old, _), (new, loss) = run, inner(self, run, group, *inputs)
        changed = {name: (old[0][name] != value).any() for name, value in new[0][0].items()}

        def note(changed, loss):
            seen.append((group, {name for name, moved in changed.items() if moved}, float(loss)))

        jax.debug.callback(note, changed, loss, ordered=True)
        return new, loss

    monkeypatch.setattr(Steps, "_step", step)
    return seen


def run(port, objective, epochs, data=X, **settings):
    history = fit(port, data, objective, epochs=epochs, **{**SETTINGS, **settings})
    jax.effects_barrier()
    return history


@pytest.mark.slow
def test_who_is_stepped_and_for_how_long(recorded, series):
    _, port = make_pair(CASE["vae"].model)
    own = set(guide_parameters(port, X))
    series += [0.0, 1.0, 0.5]
    history = run(port, Lagging(**SMALL), 3, batch_size=10)
    expected = {"guide": own, "model": set(parameters(port)) - own, None: set(parameters(port))}
    assert all(changed == expected[group] for group, changed, _ in recorded)
    turns = turns_of(recorded)
    assert [group for group, _ in turns] == ["guide", "model"] * 6 + [None] * 3
    for group, losses in turns:
        means = np.reshape(losses, (-1, 2)).mean(1) if group == "guide" else []
        assert (np.diff(means[:-1]) < 0).all()
        assert group != "guide" or len(losses) == 6 or means[-1] >= means[-2]
    assert {len(losses) for group, losses in turns if group == "guide"} == {4, 6}
    of_model = [losses[0] for group, losses in turns if group == "model"][:3]
    assert history["loss"][0] == pytest.approx(np.mean(of_model), rel=1e-6)


def turns_of(recorded):
    """Each turn with the losses of its steps."""
    turns = []
    for group, _, loss in recorded:
        if group != "guide" or not turns or turns[-1][0] != "guide":
            turns.append((group, []))
        turns[-1][1].append(loss)
    return turns


def test_batches_and_keys_of_the_steps():
    """Those of a guide's step are new each time, those of others and of ordinary ones are not."""
    others, index = jnp.arange(12).reshape(4, 3), jnp.array([7, 5])
    guide, model = Turn("guide", 100, 10), Turn("model")
    places = [place_of(0, guide, step, index, others, key()) for step in range(100)]
    chosen = [tuple(np.asarray(batch)) for batch, _ in places]
    assert set(chosen) == {tuple(row) for row in np.arange(12).reshape(4, 3)}
    assert min(chosen.count(batch) for batch in chosen) > 10
    batch, of_model = place_of(1, model, 0, index, others, key())
    assert np.array_equal(batch, index)
    batch, ordinary = place_of(0, Turn(), 0, index, None, key())
    assert np.array_equal(batch, index)
    assert ordinary == key()
    keys = [tuple(np.asarray(jax.random.key_data(k))) for _, k in places]
    keys += [tuple(np.asarray(jax.random.key_data(k))) for k in (of_model, ordinary)]
    assert len(set(keys)) == 102


@pytest.mark.slow
def test_the_phase_ends_when_the_mutual_information_falls(recorded, series):
    _, port = make_pair(CASE["vae"].model)
    series += [9.0, 0.25, 0.125, 0.5, 0.25]
    history = run(port, Lagging(**SMALL, patience=2), 5, batch_size=24)
    assert history["lagging"].tolist() == [2, 1, 1, 0, 0]
    assert history["mutual_information"].tolist() == [0.25, 0.25, 0.5, 0.5, 0.5]
    assert series == []
    assert [group for group, _, _ in recorded].count(None) == 1


@pytest.mark.slow
def test_what_is_measured():
    _, port = make_pair(CASE["vae"].model)
    history = run(port, Lagging(**SMALL, subset=7), 1)
    expected = lagging.elbo_surgery(history.model, X[:7]).mutual_information.values.mean()
    assert history["mutual_information"][0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_resumed_run_is_the_run(tmp_path, series, recorded):
    """Of which the phase lasts two epochs, and Adam counts the steps of each group."""
    _, port = make_pair(CASE["sbn"].model)
    inside = ELBO(2, baseline=BaselineNet(6, (4,), key=key(7)), beta=Warmup(3))
    objective = Lagging(inside, **SMALL)
    series += [0, 2, 1]
    full = run(port, objective, 3, out=tmp_path / "full")
    groups = [group for group, _, _ in recorded]
    series += [0, 2]
    run(port, objective, 1, out=tmp_path / "parts")
    series += [0, 1]
    again = run(port, objective, 3, out=tmp_path / "parts", resume=True)
    assert full["lagging"].tolist() == again["lagging"].tolist() == [1, 0, 0]
    (arrays, text), (others, other_text) = (
        safetensors_file.read(tmp_path / part / "checkpoint.safetensors")
        for part in ("full", "parts")
    )
    assert arrays.keys() == others.keys()
    for array in arrays:
        np.testing.assert_array_equal(arrays[array], others[array], err_msg=array)
    assert text == other_text
    assert full["loss"].tolist() == again["loss"].tolist()
    counts = [v for n, v in arrays.items() if n.startswith("optimizer.") and v.ndim == 0]
    expected = [groups.count(group) + groups.count(None) for group in ("guide", "model")]
    assert sorted(counts) == sorted(expected)
    assert groups.count("model") == 2 * 2


@pytest.mark.slow
def test_the_objective_inside_does_the_rest(recorded, series):
    series += [0.0, 1.0]
    _, port = make_pair(CASE["vae"].model)
    objective = Lagging(GECO(-99.0, update="geco", rate=1.0), **SMALL)
    history = run(port, objective, 1)
    expected = np.log(objective.objective.start) - 0.1 * len(recorded)
    assert np.log(history["beta"][0]) == pytest.approx(expected, rel=1e-4)
    assert Lagging(ELBO(beta=Warmup(2))).at(1).objective.beta == 0.5
    assert Lagging(ELBO(beta=Warmup(2))).for_evaluation().beta == 1.0
    assert objective.group_of(f"{NETWORK}baseline.value.bias") == "guide"


@pytest.mark.slow
def test_numpyros_own_elbo(recorded, series):
    series += [0.0, 1.0]
    _, port = make_pair(CASE["vae"].model)
    history = run(port, Lagging(numpyro.infer.Trace_ELBO(), **SMALL), 1)
    assert {"guide", "model"} == {group for group, _, _ in recorded}
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_a_fault_in_a_step_of_the_guide_is_named(series):
    series += [0.0]
    _, port = make_pair(CASE["vae-gaussian"].model)
    with pytest.raises(FloatingPointError, match=r"at epoch 1, batch 1 of 1; first site at fault"):
        run(
            port,
            Lagging(max_steps=40, window=20),
            1,
            CASE["vae-gaussian"].data(0),
            lr=1e30,
            batch_size=24,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 19}, r"max_steps should be at least 2 window = 20, .* was 19"),
        ({"window": 0}, "window should be a whole number of at least 1, was 0"),
        ({"patience": 0}, "patience should be a whole number of at least 1, was 0"),
        ({"subset": 1}, "subset should be a whole number of at least 2, was 1"),
        ({"objective": SemiSupervised()}, "objective should be a bound .* was SemiSupervised"),
        ({"objective": "elbo"}, r"objective should be a ppl_vae\.numpyro objective"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Lagging(**arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsnn", "guide should have trained parameters of its own"),
        ("cvae", r"model should have one prior p\(z\) for all data"),
    ],
)
def test_pairs_that_it_is_not_for(name, message):
    _, port = make_pair(CASE[name].model)
    with pytest.raises(ValueError, match=message):
        run(port, Lagging(), 1, CASE[name].data(0))


def test_svi_cannot_step_groups():
    _, port = make_pair(CASE["vae"].model)
    svi = numpyro.infer.SVI(port.model, port.guide, numpyro.optim.Adam(0.01), Lagging())
    with pytest.raises(ValueError, match=r"by ppl_vae\.numpyro\.inference\.fit"):
        svi.stable_update(svi.init(key(), X), X)
