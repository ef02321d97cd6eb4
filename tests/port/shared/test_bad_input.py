"""The walks and rows of `tests/support/bad_*.py` in the port, and what only the port is handed."""

import inspect

import pytest
from bad_calls import CASE, X
from bad_data import MODELS, assert_data_refused
from bad_rows import EXTRAS, ROWS
from bad_values import assert_refused, public
from port_support import key, make_pair

import ppl_vae.numpyro.inference
import ppl_vae.numpyro.models
from ppl_vae.parity import assert_parity, assert_same_initialisation


class Port:
    """The port for the walks and rows."""

    models = ppl_vae.numpyro.models
    inference = ppl_vae.numpyro.inference

    def call(self, name, *arguments, **more):
        room = self.models if hasattr(self.models, name) else self.inference
        thing = getattr(room, name)
        with_key = {"key": key()} if "key" in inspect.signature(thing).parameters else {}
        return thing(*arguments, **more, **with_key)

    def part(self, part):
        return part.make(self.models, key=key())

    def weights(self, model):
        return model.state_dict()

    def method(self, method, case, *arguments, **more):
        return getattr(self.part(CASE[case].model), method)(*arguments, key=key(), **more)


@pytest.mark.parametrize("name", sorted(public(Port())))
def test_every_argument_of_every_signature(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    assert_refused(Port(), name)


@pytest.mark.parametrize("case", MODELS)
def test_the_data_of_every_model(case):
    assert_data_refused(Port(), case)


@pytest.mark.parametrize("name", ROWS)
def test_one_value_error_that_names_the_argument(name):
    for package in {package for start, package in EXTRAS.items() if name.startswith(start)}:
        pytest.importorskip(package)
    call, words = ROWS[name]
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        call(Port())
    assert "\n" not in str(caught.value)


MODEL, PORT = make_pair(CASE["vae"].model)
OF_THE_PORT = {
    "a model of Pyro": (
        lambda: ppl_vae.numpyro.inference.mean_loss(MODEL, X),
        r"model should be a ppl_vae\.numpyro Model, was ppl_vae\.models\.vae\.VAE",
    ),
    "a device by its number": (
        lambda: ppl_vae.numpyro.inference.fit(PORT, X, epochs=1, device=0),
        "device should be auto or one that jax sees, was 0",
    ),
    "parity the wrong way round": (
        lambda: assert_parity(PORT, MODEL, X),
        r"model should be a ppl_vae Model, was ppl_vae\.numpyro\.models\.vae\.VAE",
    ),
    "parity with a model of Pyro": (
        lambda: assert_parity(MODEL, MODEL, X),
        r"port should be a ppl_vae\.numpyro Model, was ppl_vae\.models\.vae\.VAE",
    ),
    "parity of no particles": (lambda: assert_parity(MODEL, PORT, X, k=0), "k .*1, was 0"),
    "parity of other data": (
        lambda: assert_parity(MODEL, PORT, X[:, 1:]),
        r"x should have shape \(n, 6\), had \(24, 5\)",
    ),
    "parity of initial weights": (
        lambda: assert_same_initialisation(lambda: MODEL, lambda key: PORT, 0),
        "repeats should be a whole number of at least 1, was 0",
    ),
}


@pytest.mark.parametrize("name", OF_THE_PORT)
def test_what_only_the_port_is_handed(name):
    call, words = OF_THE_PORT[name]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
def test_the_largest_seed_has_another_one_after_it():
    found = ppl_vae.numpyro.inference.calibration(PORT, 100, k=99, seed=2**32 - 1)
    assert found.n == 100
