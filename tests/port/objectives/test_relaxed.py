"""The port's Relaxed on the same noise as Pyro's, and what is particular to it."""

import numpy as np
import pyro
import pytest
import torch
from cases import CASES, pixels
from port_support import jax, jnp, key, make_pair, numpyro
from pyro.poutine.messenger import Messenger

from ppl_vae.inference.objectives.relaxed import Relaxed as PyroRelaxed
from ppl_vae.models.distributions import concrete
from ppl_vae.numpyro.inference import ExponentialDecay, fit
from ppl_vae.numpyro.inference.objectives.elbo import ELBO
from ppl_vae.numpyro.inference.objectives.relaxed import Relaxed
from ppl_vae.numpyro.models.base import with_parameters
from ppl_vae.numpyro.models.distributions.concrete import BinConcrete, ExpConcrete, kind_of, relax
from ppl_vae.parity import float64
from ppl_vae.shared.schedules import Schedule

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}


def noise(fn):
    """Numbers in the place of logistic and Gumbel ones, with what makes a relaxed draw of them."""
    shape = tuple(fn.shape())
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn, np.sin(1.0 + np.arange(np.prod(shape, dtype=int))).reshape(shape) * 1.3


class TorchNoise(Messenger):
    def _pyro_sample(self, msg):
        if hasattr(msg["fn"], "event_shape") and msg["value"] is None:
            fn, numbers = noise(msg["fn"])
            if hasattr(fn, "from_noise"):
                msg["value"] = fn.from_noise(torch.tensor(numbers))


class Noise(numpyro.primitives.Messenger):
    def process_message(self, msg):
        if msg["type"] == "sample" and msg["value"] is None:
            fn, numbers = noise(msg["fn"])
            if hasattr(fn, "from_noise"):
                msg["value"] = fn.from_noise(jnp.asarray(numbers))


def compare(model, port, data, **arguments):
    """Loss and gradients of both for the same noise."""
    model.double()
    data = [array.astype(np.float64) for array in data]
    with TorchNoise():
        ours = PyroRelaxed(**arguments).differentiable_loss(
            model.model, model.guide, *map(torch.tensor, data)
        )
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(ours, weights), strict=True))
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            with Noise():
                objective = Relaxed(**arguments)
                return objective.differentiable_loss(this.model, this.guide, *data, key=key())

        own = {n: jnp.asarray(w.detach().numpy()) for n, w in zip(names, weights, strict=True)}
        theirs, found = jax.jit(jax.value_and_grad(loss))(own)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for name, grad in grads.items():
        np.testing.assert_allclose(found[name], grad, atol=1e-9, rtol=1e-9)
        assert abs(grad).sum() > 0


@pytest.mark.parametrize("arguments", [{}, {"temperature": 1.3, "hard": True, "k": 3}], ids=str)
@pytest.mark.parametrize("name", ["sbn", "sbn-categorical"])
def test_the_loss_and_its_gradients_are_those_of_pyro(name, arguments):
    model, port = make_pair(CASE[name].model)
    compare(model, port, pixels(0), **arguments)


MASK, SCALE = np.array([True, False, True]), np.array([1.0, 2.0, 3.0])
X = np.array([0.4, -1.3, 0.2])


def torch_pair(p):
    """A class inside of a mask, a number and a binary latent of all data."""

    def model(x):
        pi, a = (p[name] for name in ("pi", "a"))
        g = pyro.sample("g", pyro.distributions.Bernoulli(logits=p["g"]))
        with pyro.plate("data", 3), pyro.poutine.scale(scale=torch.tensor(SCALE)):
            fn = pyro.distributions.Categorical(logits=pi).expand([3])
            y = pyro.sample("y", fn.mask(torch.tensor(MASK)))
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros_like(a[0]), 1.0))
            loc = (y * a).sum(-1) + z + g
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("g", pyro.distributions.Bernoulli(logits=p["h"]))
        with pyro.plate("data", 3), pyro.poutine.scale(scale=torch.tensor(SCALE)):
            fn = pyro.distributions.Categorical(logits=x[:, None] * p["w"])
            pyro.sample("y", fn.mask(torch.tensor(MASK)))
            pyro.sample("z", pyro.distributions.Delta(p["h"] * x, log_density=p["h"]))

    return model, guide


def numpyro_pair(p):
    """The same."""

    def model(x):
        g = numpyro.sample("g", dist.Bernoulli(logits=p["g"]))
        with numpyro.plate("data", 3), numpyro.handlers.scale(scale=jnp.asarray(SCALE)):
            fn = dist.Categorical(logits=p["pi"]).expand([3])
            y = numpyro.sample("y", fn.mask(jnp.asarray(MASK)))
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            loc = (y * p["a"]).sum(-1) + z + g
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        numpyro.sample("g", dist.Bernoulli(logits=p["h"]))
        with numpyro.plate("data", 3), numpyro.handlers.scale(scale=jnp.asarray(SCALE)):
            fn = dist.Categorical(logits=x[:, None] * p["w"])
            numpyro.sample("y", fn.mask(jnp.asarray(MASK)))
            numpyro.sample("z", dist.Delta(p["h"] * x, log_density=p["h"]))

    return model, guide


def test_mixed_latents_masks_scales_and_latents_of_all_data():
    shapes = {"pi": (4,), "a": (4,), "w": (4,), "g": (), "h": ()}
    p = {name: torch.randn(shape, dtype=torch.double) for name, shape in shapes.items()}
    own = {name: value.numpy().copy() for name, value in p.items()}
    for value in p.values():
        value.requires_grad_()
    with TorchNoise():
        ours = PyroRelaxed(0.7).differentiable_loss(*torch_pair(p), torch.tensor(X))
    grads = dict(zip(p, torch.autograd.grad(ours, list(p.values())), strict=True))
    with float64():

        def loss(p):
            with Noise():
                return Relaxed(0.7).differentiable_loss(*numpyro_pair(p), X, key=key())

        weights = {name: jnp.asarray(value) for name, value in own.items()}
        theirs, found = jax.jit(jax.value_and_grad(loss))(weights)
    np.testing.assert_allclose(ours.item(), theirs, rtol=1e-9)
    for name, grad in grads.items():
        np.testing.assert_allclose(found[name], grad, atol=1e-9, rtol=1e-9)
        assert abs(grad).sum() > 0


def test_densities_are_those_of_pyro():
    logits = np.array([1.0, -0.5, 0.2])
    y = torch.linspace(-3, 4, 12, dtype=torch.double).reshape(4, 3)
    for port, ours, value in (
        (BinConcrete, concrete.BinConcrete, y),
        (ExpConcrete, concrete.ExpConcrete, y.log_softmax(-1)),
    ):
        expected = ours(0.7, torch.tensor(logits)).log_prob(value)
        with float64():
            found = port(0.7, jnp.asarray(logits)).log_prob(jnp.asarray(value.numpy()))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_draws_have_the_densities_of_the_noise():
    """t (y_1 - y_2) less that of the logits is logistic, so its sigmoid is uniform."""
    logits, n = jnp.array([1.0, -0.5, 0.2]), 20000
    y = BinConcrete(0.7, logits).sample(key(0), (n,))
    e = ExpConcrete(0.7, logits).sample(key(1), (n,))
    odds = 0.7 * (e[:, :2] - e[:, 1:]) - logits[:2] + logits[1:]
    u = np.asarray(jax.nn.sigmoid(jnp.concatenate([0.7 * y - logits, odds], 1)), dtype=float)
    largest = np.asarray(ExpConcrete.nearest(e), dtype=float)
    for values, expected in (
        *((u**power, 1 / (power + 1)) for power in (1, 2, 6)),
        (np.asarray(BinConcrete.nearest(y), dtype=float), jax.nn.sigmoid(logits)),
        (largest, jax.nn.softmax(logits)),
    ):
        error = values.std(0) / n**0.5
        assert (abs(values.mean(0) - np.asarray(expected)) < 4 * error).all()


@pytest.mark.parametrize("hard", [False, True])
def test_extreme_logits_in_single_precision(hard):
    """Temperature 0.05, where z is 0 or 1 in all digits."""
    sizes = jnp.array([1e4, -1e4, 60.0, -60.0, 0.5])
    start = jnp.stack([sizes, 0 * sizes, -sizes / 2], -1)

    def program(logits, model=False):
        with numpyro.plate("data", 5):
            b = numpyro.sample("b", dist.Bernoulli(logits=logits[:, 0]))
            y = numpyro.sample("y", dist.Categorical(logits=logits))
            if model:
                numpyro.factor("x", b + y[:, 0])

    def loss(logits, prior):
        programs = lambda: program(prior, True), lambda: program(logits)
        return Relaxed(0.05, hard).differentiable_loss(*programs, key=key())

    found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(start, start[::-1])
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert abs(leaf).sum() > 0


class Steps(Schedule):
    """One temperature in the first epoch, another in the others."""

    def __init__(self, first, then):
        self.first, self.then = first, then

    def __call__(self, epoch):
        return self.first + (self.then - self.first) * (epoch > 1)


@pytest.mark.slow
def test_fit_advances_the_temperature_and_measures_the_discrete_pair():
    _, port = make_pair(CASE["sbn"].model)
    (x,) = pixels(0)
    settings = {"epochs": 2, "lr": 1e-30, "progress": False}  # weights stay
    objectives = Relaxed(Steps(1.0, 0.1)), Relaxed(1.0)
    (first, then), (warm, warmer) = (
        [row["loss"] for row in fit(port, x, objective, **settings).rows]
        for objective in objectives
    )
    np.testing.assert_allclose(first, warm, rtol=1e-6)
    assert abs(then - warmer) > 0.01
    assert Relaxed(ExponentialDecay(1.0, 0.5, 3)).at(3).temperature == 0.5
    measured = Relaxed(0.3, k=7, max_plate_nesting=2).for_evaluation()
    assert type(measured) is ELBO
    assert (measured.k, measured.max_plate_nesting) == (7, 2)


def test_functions_with_parameters_under_svi():
    x = jnp.array([2.0, -2.0])

    def model(x):
        with numpyro.plate("data", len(x)):
            b = numpyro.sample("b", dist.Bernoulli(logits=jnp.zeros(2)))
            a = numpyro.param("a", jnp.array(1.0))
            numpyro.sample("x", dist.Normal(a * (2 * b - 1), 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("b", dist.Bernoulli(logits=numpyro.param("logits", jnp.zeros(2))))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.05), Relaxed(0.5, k=5))
    result = svi.run(key(), 150, x, progress_bar=False)
    assert result.params["logits"][0] > 1.5
    assert result.params["logits"][1] < -1.5
    assert result.params["a"] > 1.3


@pytest.mark.slow
def test_latents_that_only_the_model_enumerates_are_summed_out():
    guide = latent(dist.Bernoulli(logits=0.3))

    def model(x, marked):
        with numpyro.plate("data", 2):
            b = numpyro.sample("b", dist.Bernoulli(logits=-0.4))
            if marked:
                y = numpyro.sample("y", dist.Bernoulli(probs=0.3), infer=MARKED)
                numpyro.sample("x", dist.Normal(b + y, 1.0), obs=x)
            else:
                at = [dist.Normal(b + y, 1.0).log_prob(x) for y in (0.0, 1.0)]
                numpyro.factor("x", jnp.logaddexp(at[0] + np.log(0.7), at[1] + np.log(0.3)))

    ours, expected = (
        Relaxed().differentiable_loss(lambda x, m=m: model(x, m), guide, X[:2], key=key())
        for m in (True, False)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def latent(fn, marks=None):
    """A guide with one latent site."""

    def program(x):
        with numpyro.plate("data", 2):
            numpyro.sample("b", fn, infer=marks or {})

    return program


BERNOULLI, CATEGORICAL = dist.Bernoulli(probs=0.3), dist.Categorical(probs=np.ones(2) / 2)
POISSON, NORMAL = dist.Poisson(1.0), dist.Normal(0.0, 1.0)
MULTINOMIAL = dist.Multinomial(1, np.ones(3) / 3)
MARKED = {"enumerate": "parallel"}


def test_what_has_no_relaxation_is_refused():
    given = numpyro.handlers.substitute(latent(BERNOULLI), data={"b": jnp.ones(2)})
    for model, guide, says in (
        (latent(POISSON), latent(POISSON), "'b' should be Bernoulli, .*, was Poisson.*use VIMCO"),
        (latent(MULTINOMIAL), latent(MULTINOMIAL), "was Multinomial.*, which has no relaxation"),
        (latent(BERNOULLI), latent(BERNOULLI, MARKED), "'b' should not be enumerated by the guide"),
        (latent(NORMAL), latent(NORMAL), "guide should draw a discrete latent.*use ELBO or IWAE"),
        (latent(CATEGORICAL), latent(BERNOULLI), "Categorical in the model and Bernoulli in the g"),
        (latent(NORMAL), latent(BERNOULLI), "was continuous in the model and Bernoulli in the gui"),
        (latent(BERNOULLI), given, "'b' should be drawn to be relaxed, was given a value"),
    ):
        with pytest.raises(ValueError, match=says):
            Relaxed().differentiable_loss(model, guide, X, key=key())


def test_wrong_arguments_are_named():
    for arguments, says in (
        ({"temperature": 0.0}, "temperature should be a positive number, was 0.0"),
        ({"hard": 5}, "hard should be True or False, was 5"),
        ({"k": 0}, "k should be a whole number of at least 1, was 0"),
    ):
        with pytest.raises(ValueError, match=says):
            Relaxed(**arguments)
    program = latent(BERNOULLI)
    with pytest.raises(ValueError, match="temperature should be a number where no epoch is known"):
        Relaxed(ExponentialDecay(1.0, 0.5, 3)).differentiable_loss(program, program, key=key())


def test_shapes_are_those_of_the_distribution():
    units = dist.Bernoulli(logits=jnp.zeros((2, 3))).mask(True).to_event(1)
    assert kind_of(units) == "Bernoulli"
    categories = dist.Categorical(logits=jnp.zeros((3, 4))).to_event(1).expand((5, 2))
    relaxed = relax(categories, 0.5)
    assert (relaxed.batch_shape, relaxed.event_shape) == ((5, 2), (3, 4))
    one = relax(dist.Bernoulli(logits=0.0).expand((4,)), 0.5)
    assert one.sample(key()).shape == one.batch_shape == (4,)
    draw = relaxed.sample(key())
    np.testing.assert_allclose(jnp.exp(draw).sum(-1), np.ones((5, 2, 3)), rtol=1e-5)
    assert relaxed.log_prob(draw).shape == (5, 2)
