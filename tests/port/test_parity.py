"""The consistency check itself: it passes on every port, and sees every fault planted here."""

import copy

import equinox as eqx
import numpy as np
import pytest
import torch
from cases import CASES, PAIRS, VAE, Case, Part, pixels
from port_support import jax, jnp, key, make_pair, numpyro

import ppl_vae.models
import ppl_vae.numpyro.models as ports
from ppl_vae.models.networks.layers import ACTIVATIONS, BatchNorm
from ppl_vae.numpyro.models.networks import layers
from ppl_vae.parity import assert_parity, assert_same_initialisation

dist = numpyro.distributions
# Parity is about models: what an objective does is compared with Pyro's in tests/port/objectives.
DEEP = [case for case in PAIRS if case.name != "m2-semi-supervised"]  # is m2-unlabelled
SHALLOW = [
    Case(
        f"{case.name}-shallow",
        Part(case.model.cls, {**case.model.arguments, "hidden": (4,)}),
        case.data,
    )
    for case in CASES
    if case.name in ("vae", "m2-unlabelled")
]
NORMALISED = [
    case
    for case in CASES
    if any(isinstance(m, BatchNorm) for m in case.model.make(ppl_vae.models).modules())
]
MODEL, PORT = make_pair(Part("VAE", VAE))
X = pixels(0)


@pytest.mark.parametrize("case", [*DEEP, *SHALLOW], ids=lambda case: case.name)
def test_parity(case):
    assert_parity(*make_pair(case.model), *case.inputs(0), k=case.objective.arguments.get("k", 1))


@pytest.mark.slow
@pytest.mark.parametrize("case", NORMALISED, ids=lambda case: case.name)
def test_parity_in_training(case):
    k = case.objective.arguments.get("k", 1)
    assert_parity(*make_pair(case.model), *case.inputs(0), k=k, training=True)


def test_several_particles_of_an_enumerated_site():
    case = next(case for case in CASES if case.name == "m2-unlabelled")
    assert_parity(*make_pair(case.model), *case.inputs(0), k=3)


def test_it_changes_nothing():
    before = copy.deepcopy(MODEL.state_dict()), PORT.state_dict(), torch.get_rng_state()
    assert_parity(MODEL, PORT, *X)
    assert all(torch.equal(v, before[0][n]) for n, v in MODEL.state_dict().items())
    assert all(np.array_equal(v, before[1][n]) for n, v in PORT.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[2])
    assert jnp.zeros(1).dtype == jnp.float32


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    values = np.linspace(-6, 30, 200)
    theirs = layers.ACTIVATIONS[name](jnp.asarray(values, jnp.float32))
    ours = getattr(torch.nn.functional, name)(torch.tensor(values, dtype=torch.float32))
    np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=2e-6)
    assert tuple(layers.ACTIVATIONS) == ACTIVATIONS
    at_zero = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(getattr(torch.nn.functional, name)(at_zero), at_zero)
    np.testing.assert_allclose(jax.grad(layers.ACTIVATIONS[name])(0.0), slope, atol=1e-7)


class WidePrior(ports.StandardNormal):
    def __call__(self):
        return dist.Normal(jnp.zeros(self.z_dim), 1.001).to_event(1)


class StoppedNet(ports.DiagNormalNet):
    def __call__(self, *inputs):
        loc = jax.lax.stop_gradient(self.loc.bias) - self.loc.bias
        fn = super().__call__(*inputs).base_dist
        return dist.Normal(fn.loc + loc - jax.lax.stop_gradient(loc), fn.scale).to_event(1)


class TransposedLinear(layers.Linear):
    def __call__(self, *inputs):
        return inputs[0] @ self.weight + self.bias


class Renamed(ports.VAE):
    def model(self, x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("w", self.prior())
            numpyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("w", self.encoder(x))


class OneMore(ports.VAE):
    extra: jax.Array

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.extra = jnp.zeros(1)


class Unenumerated(ports.M2):
    def guide(self, x, y=None):
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", self.classifier(x))
            numpyro.sample("z", self.encoder(x, self.one_hot(y)))


def fails(port, says, model=MODEL, data=X):
    with pytest.raises(AssertionError, match=says):
        assert_parity(model, port, *data)


def test_sees_another_prior():
    fails(ports.VAE(**VAE, prior=WidePrior(2), key=key()), r"log density of site 'model: z'.*up to")


def test_sees_a_parameter_without_gradient():
    encoder = StoppedNet(6, 2, (5, 4), key=key())
    fails(ports.VAE(**VAE, encoder=encoder, key=key()), "by parameter 'encoder.loc.bias'")


def test_sees_a_detached_parameter():
    model = copy.deepcopy(MODEL)
    model.decoder.logits.bias.requires_grad_(False)
    fails(PORT, "by parameter 'decoder.logits.bias'", model)


def test_sees_a_renamed_site():
    fails(Renamed(**VAE, key=key()), r"only Pyro has \['guide: z', 'model: z'\]")


def test_sees_another_activation():
    decoder = ports.BernoulliNet(2, 6, (4, 5), activation="relu", key=key())
    fails(ports.VAE(**VAE, decoder=decoder, key=key()), "log density of site 'model: x'")


def test_sees_a_missing_parameter():
    fails(OneMore(**VAE, key=key()), r"only NumPyro has \['extra'\]")


def test_sees_another_shape():
    wide = ports.BernoulliNet(2, 6, (4, 7), key=key())
    fails(ports.VAE(**VAE, decoder=wide, key=key()), "'decoder.trunk.layers.1.weight' has shape")


def test_sees_another_layout():
    arguments = {**VAE, "hidden": (4, 4)}
    linear = TransposedLinear(4, 4, key=key())
    port = ports.VAE(**arguments, key=key())
    port = eqx.tree_at(
        lambda p: p.encoder.trunk.layers, port, (port.encoder.trunk.layers[0], linear)
    )
    fails(port, "log density of site 'guide: z'", ppl_vae.models.VAE(**arguments))


NORM_CASE = next(case for case in NORMALISED if case.name == "hierarchical-norm")


def test_sees_other_running_statistics(monkeypatch):
    model, port = make_pair(NORM_CASE.model)
    move = layers._update_average
    monkeypatch.setattr(layers, "_update_average", lambda buffer, new: move(buffer, 1.001 * new))
    assert_parity(model, port, *X)
    says = r"buffer 'encoders.0.trunk.norms.0.running_mean' after a run should be the same"
    with pytest.raises(AssertionError, match=says):
        assert_parity(model, port, *X, training=True)


def test_sees_a_missing_buffer():
    model, port = make_pair(NORM_CASE.model)
    model.decoder.trunk.norms[0].register_buffer("other", torch.zeros(4))
    fails(port, r"only Pyro has \['decoder.trunk.norms.0.other'\]", model)


def test_training_with_dropout_is_refused():
    part = Part(
        "CategoricalNet", {"in_dims": 6, "n_classes": 3, "hidden": (4,), "dropout": (0, 0.5)}
    )
    pair = make_pair(Part("Classifier", {"x_dim": 6, "n_classes": 3, "classifier": part}))
    data = (*X, np.arange(24) % 3)
    assert_parity(*pair, *data)
    with pytest.raises(
        ValueError, match=r"training should be False with dropout, .*classifier.trunk"
    ):
        assert_parity(*pair, *data, training=True)


def test_sees_a_site_that_is_not_enumerated():
    case = next(case for case in CASES if case.name == "m2-unlabelled")
    port = Unenumerated(**case.model.arguments, key=key())
    fails(port, "'model: y'|'guide: y'", make_pair(case.model)[0])


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.name)
def test_same_initialisation(case):
    assert_same_initialisation(
        lambda: case.model.make(ppl_vae.models), lambda k: case.model.make(ports, key=k), repeats=40
    )


class BiasFree(layers.Linear):
    """As Equinox and Flax would have it: other weights (or no bias) to begin with."""

    def __init__(self, in_dim, out_dim, *, scale=1.0, bias=1.0, key):
        super().__init__(in_dim, out_dim, key=key)
        self.weight, self.bias = scale * self.weight, bias * self.bias


def gaussian(in_dim, out_dim, *, key):
    linear = layers.Linear(in_dim, out_dim, key=key)
    weight = jax.random.normal(key, (out_dim, in_dim)) / np.sqrt(3 * in_dim)
    return eqx.tree_at(lambda m: m.weight, linear, weight)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda k: BiasFree(20, 20, bias=0.0, key=k), "'classifier.logits.bias'"),
        (lambda k: BiasFree(20, 20, scale=1.03, key=k), "'classifier.logits.weight'"),
        (lambda k: BiasFree(20, 20, scale=1 + 1e-2, bias=1.0, key=k), "weight.*largest size"),
        (lambda k: gaussian(20, 20, key=k), "'classifier.logits.weight'"),
    ],
    ids=["zero-bias", "wide", "range", "gaussian"],
)
def test_sees_another_initialisation(make, says):
    arguments = {"x_dim": 20, "n_classes": 20, "hidden": ()}

    def make_port(k):
        port = ports.Classifier(**arguments, key=k)
        return eqx.tree_at(lambda p: p.classifier.logits, port, make(k))

    with pytest.raises(AssertionError, match=says):
        assert_same_initialisation(lambda: ppl_vae.models.Classifier(**arguments), make_port)
