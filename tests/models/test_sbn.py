"""SBN and ConditionalSBN against sums over all states, densities written out in NumPy."""

import itertools
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy.special import log_softmax, logsumexp
from support import assert_unbiased, gradients
from torch import Tensor

from ppl_vae import ELBO
from ppl_vae.inference import log_likelihood
from ppl_vae.models import SBN, ConditionalSBN, Model

X_DIM, C_DIM = 3, 2
SHAPES: dict[str, dict[str, Any]] = {
    "one-layer": {"z_dims": (4,)},
    "linear": {"z_dims": (6, 4)},
    "non-linear": {"z_dims": (3, 2, 2), "hidden": ((5,), (4, 3), ())},
    "categorical": {"z_dims": (2, 2), "n_categories": 3},
    "categorical-non-linear": {"z_dims": (2, 1), "n_categories": 4, "hidden": ((), (5,))},
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=X_DIM)), dtype=torch.double)


def spread(model: Model) -> Any:
    """Weights so large that layers tell of each other; the guide leaves no state out."""
    for name, parameter in model.named_parameters():
        parameter.detach().normal_(0, 0.3 if name.startswith("encoders") else 1.0)
    return model.double()


def sbn(shape: str) -> SBN:
    return spread(SBN(X_DIM, **SHAPES[shape]))


def conditional(shape: str = "linear", recognition: bool = True) -> ConditionalSBN:
    arguments = {**SHAPES[shape], "recognition": recognition}
    return spread(ConditionalSBN(X_DIM, C_DIM, **arguments))


def states(model: Any) -> list[np.ndarray]:
    """All values of z_1, ..., z_L: arrays of shape (number of states, z_dim)."""
    z_dims = model.arguments["z_dims"]
    values = itertools.product(range(model.n_categories), repeat=sum(z_dims))
    return np.split(np.array(list(values)), np.cumsum(z_dims)[:-1], axis=1)


class ByHand:
    """Log densities in NumPy, from the weights by their names alone."""

    def __init__(self, model: Any) -> None:
        self.weights = {name: value.numpy() for name, value in model.state_dict().items()}
        self.n_categories, self.z = model.n_categories, states(model)
        self.codes = [z if model.n_categories == 2 else self.one_hot(z) for z in self.z]

    def one_hot(self, z: np.ndarray) -> np.ndarray:
        hot = np.zeros((len(z), z.shape[1] * self.n_categories))
        for row, units in enumerate(z):
            for unit, category in enumerate(units):
                hot[row, unit * self.n_categories + category] = 1
        return hot

    def logits(self, name: str, h: np.ndarray) -> np.ndarray:
        if f"{name}.logits" in self.weights:
            return self.weights[f"{name}.logits"].reshape(-1)
        n_layers = sum(key.startswith(f"{name}.trunk") for key in self.weights) // 2
        for layer in [f"trunk.layers.{i}" for i in range(n_layers)]:
            h = np.tanh(self.linear(f"{name}.{layer}", h))
        return self.linear(f"{name}.logits", h)

    def linear(self, name: str, h: np.ndarray) -> np.ndarray:
        return h @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def bits(self, logits: np.ndarray, value: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-logits))
        return value * np.log(p) + (1 - value) * np.log(1 - p)

    def layer(self, name: str, number: int, h: np.ndarray) -> np.ndarray:
        """log density of all states of a layer given h, of shape (..., states or 1, size)."""
        logits, z = self.logits(name, h), self.z[number]
        if self.n_categories == 2:
            return self.bits(logits, z).sum(-1)
        shape = (z.shape[1], self.n_categories)
        log_p = log_softmax(logits.reshape(*logits.shape[:-1], *shape), -1)
        return (log_p * self.codes[number].reshape(-1, *shape)).sum((-1, -2))

    def log_p(self, x: np.ndarray, c: np.ndarray | None = None, mask: Any = 1.0) -> np.ndarray:
        """log p(x, z) of each datum and state, shape (n, states)."""
        top = np.zeros((1, 1, 0)) if c is None else c[:, None]
        total = self.layer("prior", -1, top)
        for i, code in enumerate(self.codes[1:]):
            total = total + self.layer(f"conditionals.{i}", i, code)
        scores = self.bits(self.logits("decoder", self.codes[0]), x[:, None])
        return total + (scores * np.broadcast_to(mask, x.shape)[:, None]).sum(-1)

    def log_q(self, x: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        """log q(z | x) of each datum and state, shape (n, states)."""
        total, condition = np.zeros((1, 1)), np.zeros((len(x), 1, 0)) if c is None else c[:, None]
        for i, below in enumerate([x[:, None], *self.codes[:-1]]):
            shape = np.broadcast_shapes(below.shape[:-1], condition.shape[:-1])
            parts = [np.broadcast_to(v, (*shape, v.shape[-1])) for v in (below, condition)]
            total = total + self.layer(f"encoders.{i}", i, np.concatenate(parts, -1))
        return total


def at_all_states(model: Any, program: Any, *data: Tensor) -> Tensor:
    """log density of a program of the model at all its latent states, shape (n, states)."""
    z = states(model)
    n, size = len(data[0]), len(z[0])
    dtype = torch.double if model.n_categories == 2 else torch.long
    values = {
        f"z_{i}": torch.tensor(np.tile(value, (n, 1)), dtype=dtype)
        for i, value in enumerate(z, start=1)
    }
    rows = [part.repeat_interleave(size, 0) for part in data]
    trace = poutine.trace(poutine.condition(program, data=values)).get_trace(*rows)
    trace.compute_log_prob()
    nodes: Any = trace.nodes
    sites = [node["log_prob"] for node in nodes.values() if "log_prob" in node]
    return sum(site for site in sites if site.dim()).reshape(n, size)  # without the plate's


def exact_bound(model: Any, *data: Tensor) -> Tensor:
    log_p, log_q = (at_all_states(model, run, *data) for run in (model.model, model.guide))
    return (log_q.exp() * (log_p - log_q)).sum(-1)


@every_shape
def test_model_and_guide_are_the_densities_written_out(shape: str) -> None:
    model = sbn(shape)
    hand = ByHand(model)
    log_p, log_q = hand.log_p(every_x.numpy()), hand.log_q(every_x.numpy())
    assert log_p.shape == log_q.shape == (8, model.n_categories ** sum(SHAPES[shape]["z_dims"]))
    for ours, expected in ((model.model, log_p), (model.guide, log_q)):
        found = at_all_states(model, ours, every_x).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1)
    np.testing.assert_allclose(np.exp(log_q).sum(-1), 1)


@pytest.mark.parametrize("shape", ["linear", "categorical"])
def test_samples_and_log_likelihood_have_the_exact_distribution(shape: str) -> None:
    model = sbn(shape)
    truth = torch.tensor(logsumexp(ByHand(model).log_p(every_x.numpy()), -1))
    sample = model.sample(20_000)["x"]
    counts = (sample @ torch.tensor([4.0, 2.0, 1.0]).double()).long().bincount(minlength=8)
    p = truth.exp()
    assert ((counts / 20_000 - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt()).all()
    many, one = (log_likelihood(model, every_x, k=k, particles=10_000) for k in (100_000, 1))
    assert abs(many.values - truth.numpy()).max() < 0.1 < abs(one.values - truth.numpy()).max()
    rows = every_x.repeat_interleave(5000, 0)
    values = log_likelihood(model, rows, k=1, batch_size=5000).values
    weights = torch.tensor(values).reshape(8, -1).T
    assert_unbiased(weights.exp(), p)
    assert (weights.mean(0) < truth).all()


def assert_gradients(model: Any, *data: Tensor) -> None:
    def flat(loss: Any, seed: int = 0) -> Tensor:
        return torch.cat([g.reshape(-1) for g in gradients(loss, model.parameters(), seed)])

    exact = flat(lambda: -exact_bound(model, *data).sum())
    estimate = lambda: ELBO(2000).differentiable_loss(model.model, model.guide, *data)  # noqa: E731
    draws = torch.stack([flat(estimate, seed) for seed in range(40)])
    assert_unbiased(draws, exact)
    errors = draws.std(0) / 40**0.5
    assert (errors < 0.05 * (1 + exact.abs())).all()
    assert (exact.abs() > 8 * errors).sum() > 0.5 * len(exact)  # so a gradient of 0 would be seen


@pytest.mark.parametrize("shape", ["linear", "non-linear", "categorical"])
def test_the_gradient_of_the_elbo_is_the_one_by_enumeration(shape: str) -> None:
    assert_gradients(sbn(shape), every_x[:4])


@pytest.mark.parametrize("recognition", [True, False])
def test_the_gradient_of_the_conditional_elbo_too(recognition: bool) -> None:
    c = torch.randn(4, C_DIM, dtype=torch.double)
    assert_gradients(conditional("categorical", recognition), c, every_x[:4])


@every_shape
def test_the_conditional_densities_written_out(shape: str) -> None:
    model = conditional(shape)
    c = torch.randn(8, C_DIM, dtype=torch.double)
    c[:] = c[0]
    mask = torch.rand(8, X_DIM) < 0.6
    hand, arrays = ByHand(model), (every_x.numpy(), c.numpy())
    seen = np.where(mask.numpy(), every_x.numpy(), 0)
    for data, log_p, log_q in (
        ((c, every_x), hand.log_p(*arrays), hand.log_q(*arrays)),
        ((c, every_x, mask), hand.log_p(*arrays, mask.numpy()), hand.log_q(seen, c.numpy())),
    ):
        for ours, expected in ((model.model, log_p), (model.guide, log_q)):
            found = at_all_states(model, ours, *data).detach().numpy()
            np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(np.exp(hand.log_p(*arrays)).sum(), 1)  # over all x, given one c


def test_without_recognition_the_guide_is_the_prior() -> None:
    model, c = conditional("non-linear", recognition=False), torch.randn(8, C_DIM).double()
    log_p, log_q = (
        at_all_states(model, run, c, every_x).detach().numpy() for run in (model.model, model.guide)
    )
    hand = ByHand(model)
    none = np.zeros((8, X_DIM), dtype=bool)
    np.testing.assert_allclose(log_q, hand.log_p(every_x.numpy(), c.numpy(), none), atol=1e-10)
    np.testing.assert_allclose(log_p, hand.log_p(every_x.numpy(), c.numpy()), atol=1e-10)
    assert not any(name.startswith("encoders") for name in model.state_dict())
    truth = torch.tensor(logsumexp(log_p, -1))
    assert abs(log_likelihood(model, (c, every_x), k=5000).values - truth.numpy()).max() < 0.1


def test_classes_are_one_hot_conditions() -> None:
    model, y = conditional(), torch.arange(8) % C_DIM
    vectors = torch.eye(C_DIM, dtype=torch.double)[y]
    for program in (model.model, model.guide):
        ours, theirs = (at_all_states(model, program, c, every_x) for c in (y, vectors))
        assert torch.equal(ours, theirs)
    assert model.sample(8, y)["z_1"].shape == (8, 6)


@pytest.mark.parametrize("shape", ["linear", "categorical"])
def test_samples_codes_and_reconstructions(shape: str) -> None:
    model = sbn(shape)
    z_dims, values = SHAPES[shape]["z_dims"], list(range(model.n_categories))
    sample = model.sample(200)
    assert list(sample) == ["z_2", "z_1", "x"]
    for name, z_dim in (("z_1", z_dims[0]), ("z_2", z_dims[1])):
        assert sample[name].shape == (200, z_dim)
        assert sample[name].unique().tolist() == values
    hand = ByHand(model)
    codes = sample["z_1"].numpy()
    codes = codes if shape == "linear" else hand.one_hot(codes)
    mean = 1 / (1 + np.exp(-hand.logits("decoder", codes)))
    np.testing.assert_allclose(model.decode(sample), mean, atol=1e-10)
    pyro.set_rng_seed(0)
    first = model.reconstruct(every_x)
    pyro.set_rng_seed(0)
    z = poutine.trace(model.guide).get_trace(every_x).nodes["z_1"]["value"]
    expected = model.decoder(model.as_input(z)).mean
    assert torch.equal(first, expected)


def test_the_defaults_are_those_of_the_papers() -> None:
    def sizes(model: Model) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for n, p in model.named_parameters() if not n.endswith("bias")]

    square = (200, 200)
    assert sizes(SBN()) == [(200,), (200, 784), square, square, square, square, (784, 200)]
    halves = sizes(ConditionalSBN(recognition=False))
    assert halves == [(200, 392), square, (392, 200)]
    assert sizes(ConditionalSBN())[1:3] == [(200, 392 + 392), (200, 200 + 392)]
    units = sizes(ConditionalSBN(z_dims=(20, 20), n_categories=10, recognition=False))
    assert units == halves
    model = sizes(SBN(6, (4, 3), ((9, 8), (7, 5))))
    assert model[1:7] == [(9, 6), (8, 9), (4, 8), (7, 4), (5, 7), (3, 5)]
    assert model[7:] == [(5, 3), (7, 5), (4, 7), (8, 4), (9, 8), (6, 9)]
    prior = sizes(ConditionalSBN(6, 2, (4, 3), ((9, 8), (7, 5))))[:3]
    assert prior == [(5, 2), (7, 5), (3, 7)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"z_dims": ()}, r"z_dims should hold .* at least one layer, was \(\)"),
        ({"z_dims": 3}, "z_dims should be a sequence .*was 3"),
        ({"z_dims": (3, 0)}, "z_dims should be a whole number of at least 1, was 0"),
        ({"hidden": ((5,),)}, "hidden should be one .* for each of the 2 layers .*had 1"),
        ({"hidden": ((5,), (0,))}, "hidden should be a whole number of at least 1, was 0"),
        ({"n_categories": 1}, "n_categories should be a whole number of at least 2, was 1"),
        ({"n_categories": 2.5}, "n_categories should be a whole number of at least 2, was 2.5"),
        ({"hidden": ((5,), ()), "activation": "cubic"}, "activation should be one of"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [SBN, ConditionalSBN])
def test_wrong_arguments_are_named(cls: type[Model], arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cls(**{"z_dims": (3, 2), **arguments})


def test_wrong_data_are_named() -> None:
    plain, given = SBN(X_DIM, (2,)), ConditionalSBN(X_DIM, C_DIM, (2,))
    x, c = torch.zeros(5, X_DIM), torch.zeros(5, C_DIM)
    for model, data, says in (
        (plain, (x[:, 1:],), r"x should have shape \(n, 3\), had \(5, 2\)"),
        (plain, (x + 2,), r"x should lie in \[0, 1\]"),
        (plain, (c, x), r"data should be \(x\), had 2 arrays"),
        (given, (x,), r"data should be \(c, x\) or \(c, x, mask\), had 1"),
        (given, (c[:, 1:], x), r"c should have shape \(n, 2\), had \(5, 1\)"),
        (given, (c, x - 1), r"x should lie in \[0, 1\]"),
        (given, (c, x, x), "mask should be of a boolean type"),
    ):
        with pytest.raises(ValueError, match=says):
            model.check(*data)
    with pytest.raises(ValueError, match="c_dim should be a whole number of at least 1, was 0"):
        ConditionalSBN(X_DIM, 0, (2,))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["one-layer", "categorical"])
def test_the_port_draws_codes_and_agrees(shape: str) -> None:
    pytest.importorskip("numpyro", reason="the NumPyro port is not installed")
    import jax

    import ppl_vae.numpyro.models as ports
    from ppl_vae.numpyro.inference import log_likelihood as in_port
    from ppl_vae.parity import assert_parity

    model, key = conditional(shape, recognition=False), jax.random.key(0)
    arguments = {**SHAPES[shape], "recognition": False}
    port = ports.ConditionalSBN(X_DIM, C_DIM, **arguments, key=key)
    c = np.repeat([[0.3, -0.7]], 8, axis=0).astype(np.float32)
    x = every_x.numpy().astype(np.float32)
    mask = np.random.default_rng(0).random(x.shape) < 0.5
    assert_parity(model, port, c, x, mask, k=3)
    port = port.with_weights(model.state_dict())
    truth = logsumexp(ByHand(model).log_p(x, c), -1)
    estimate = in_port(port, (c, x), k=5000, particles=1000)
    model = model.float()
    np.testing.assert_allclose(estimate.values, truth, atol=0.1)
    conditions = np.repeat(c[:1], 500, 0)
    drawn, ours = port.sample(500, conditions, key=key), model.sample(500, conditions)
    for name in ours.keys() - {"x"}:
        assert np.unique(drawn[name]).tolist() == list(range(model.n_categories))
    np.testing.assert_allclose(port.decode(ours), model.decode(ours), atol=1e-5)
    assert port.reconstruct(c, x, key=key).shape == x.shape
