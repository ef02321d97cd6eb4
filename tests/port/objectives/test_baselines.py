"""The port's baselines and free bits: Pyro's numbers on the same draws, sums over all, and fit."""

import math
from contextlib import nullcontext

import equinox as eqx
import numpy as np
import pyro
import pytest
import torch
from cases import CASES, masked_by_class, pixels
from every_draw import Given, sbn, tuples, values_of
from port_support import Noise, TorchNoise, jax, jnp, key, make_pair, numpyro

import ppl_vae.inference
import ppl_vae.inference.objectives.parts.baselines as in_pyro
import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import ELBO, fit, mean_loss
from ppl_vae.numpyro.inference.objectives.parts.baselines import BaselineNet
from ppl_vae.numpyro.models.base import parameters, with_parameters
from ppl_vae.numpyro.models.networks.layers import MLP, Linear, training
from ppl_vae.parity import float64
from ppl_vae.shared.io.safetensors_file import read
from ppl_vae.shared.objectives.free_bits import FreeBits

dist = numpyro.distributions
CASE = {case.name: case for case in CASES}
QUIET = {"progress": False, "device": "cpu", "batch_size": 10, "lr": 1e-2}
C, X_DIM = -3.0, pixels(0)[0].shape[1]
PORT = ports.SBN(X_DIM, (2,), key=key())


def same(a, b):
    return all(np.array_equal(v, b.state_dict()[name]) for name, v in a.state_dict().items())


def weights_of(module):
    return {n: jnp.asarray(w.detach().numpy()) for n, w in module.named_parameters()}


def both(model, port, ours, theirs, data, values, scale=1.0, mask=True):
    """Loss, gradients of the pair, gradients of the baseline and next c: of Pyro, of the port."""
    network = ours.baseline if isinstance(ours.baseline, torch.nn.Module) else None
    programs = [
        pyro.poutine.scale(pyro.poutine.mask(p, mask=torch.tensor(mask)), scale=torch.tensor(scale))
        for p in (model.model, model.guide)
    ]
    with Given(values):
        now = ours.with_state({"baseline": torch.tensor(C, dtype=torch.double)})
        loss, state = now.loss_and_state(*programs, *map(torch.tensor, data))
    named = {f"model.{n}": p for n, p in model.named_parameters()}
    if network is not None:
        named |= {f"net.baseline.{n}": p for n, p in network.named_parameters()}
    grads = torch.autograd.grad(loss, list(named.values()))
    expected = dict(zip(named, grads, strict=True))
    with float64():
        own = {"model": weights_of(model), "net": {}}
        if network is not None:
            own["net"] = {f"baseline.{n}": w for n, w in weights_of(network).items()}
        fixed = {name: value.numpy() for name, value in values.items()}

        def loss_of(weights):
            this = with_parameters(port, weights["model"])
            guide = numpyro.handlers.substitute(this.guide, data=fixed)
            programs = [
                numpyro.handlers.scale(numpyro.handlers.mask(p, mask=np.asarray(mask)), scale=scale)
                for p in (this.model, guide)
            ]
            objective = theirs.with_network_weights(weights["net"])
            objective = objective.with_state({"baseline": jnp.asarray(C)})
            return objective.loss_and_state(*programs, *data, key=key())

        (other, other_state), found = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(own)
    np.testing.assert_allclose(other, loss.item(), rtol=1e-9)
    flat = {f"{part}.{name}": g for part, grads in found.items() for name, g in grads.items()}
    assert flat.keys() == expected.keys()
    for name, grad in expected.items():
        np.testing.assert_allclose(flat[name], grad, atol=1e-9, rtol=1e-9, err_msg=name)
        assert abs(grad).sum() > 0
    np.testing.assert_allclose(other_state["baseline"], state["baseline"].item(), rtol=1e-9)
    assert state["baseline"] != C
    return other, flat, other_state


def nets(in_dims, kind="net"):
    """The baseline in both backends, with weights of its own."""
    if kind == "average":
        return kind, kind
    pyro.set_rng_seed(0)
    return in_pyro.BaselineNet(in_dims, (4,)).double(), BaselineNet(in_dims, (4,), key=key())


@pytest.mark.parametrize(
    ("kind", "k", "scale"), [("average", 2, 1.0), ("net", 1, 2.5), ("net", 3, 1.0)]
)
def test_loss_gradients_and_average_are_those_of_pyro(kind, k, scale):
    model, port = make_pair(CASE["sbn"].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    programs = [pyro.plate("particles", k, dim=-2)(p) if k > 1 else p for p in (model.guide,)]
    trace = pyro.poutine.trace(programs[0]).get_trace(torch.tensor(x))
    values = {site: trace.nodes[site]["value"] for site in ("z_1", "z_2")}
    ours, theirs = (
        elbo(k, baseline=net)
        for elbo, net in zip((ppl_vae.inference.ELBO, ELBO), nets(X_DIM, kind), strict=True)
    )
    mask = np.arange(len(x)) % 3 > 0
    both(model, port, ours, theirs, (x,), values, scale)
    both(model, port, ours, theirs, (x,), values, scale, mask)


def test_a_network_of_all_arguments():
    model, port = make_pair(CASE["conditional-sbn"].model)
    model.double()
    data = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in masked_by_class(0)]
    trace = pyro.poutine.trace(model.guide).get_trace(*map(torch.tensor, data))
    values = {site: trace.nodes[site]["value"] for site in ("z_1", "z_2")}

    class Ours(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(len(data), dtype=torch.double))

        def forward(self, *inputs):
            sums = [part.double().reshape(len(part), -1).sum(1) for part in inputs]
            return self.w @ torch.stack(sums)

    class Theirs(eqx.Module):
        w: jax.Array

        def __call__(self, *inputs):
            return self.w @ jnp.stack([p.reshape(len(p), -1).sum(1) for p in inputs])

    ours, theirs = (
        ppl_vae.inference.ELBO(baseline=Ours()),
        ELBO(baseline=Theirs(jnp.ones(len(data)))),
    )
    assert len(data) == 3
    both(model, port, ours, theirs, data, values)


@pytest.mark.parametrize("k", [1, 2])
def test_no_baseline_changes_the_expected_value_and_gradient(k):
    """By enumeration of all draws, each a datum whose scale is its probability."""
    model, x = sbn()
    port = ports.SBN(3, (2, 1), key=key())
    each = tuples(k)
    copies = x.repeat_interleave(len(each), 0).numpy()
    values = values_of(each.T.repeat(1, len(x)).squeeze(0))
    fixed = {name: value.numpy() for name, value in values.items()}
    trace = pyro.poutine.trace(pyro.poutine.condition(model.guide, values))
    with torch.no_grad():
        sites = trace.get_trace(torch.tensor(copies))
        sites.compute_log_prob()
    log_q = sum(sites.nodes[name]["log_prob"] for name in values).numpy()
    scale = np.exp(log_q.sum(0) if k > 1 else log_q)
    with float64():

        def loss_of(weights, baseline):
            this = with_parameters(port, weights)
            guide = numpyro.handlers.substitute(this.guide, data=fixed)
            programs = [numpyro.handlers.scale(p, scale=scale) for p in (this.model, guide)]
            objective = ELBO(k, baseline=baseline)
            if baseline is not None:
                objective = objective.with_state({"baseline": jnp.asarray(C)})
            return objective.differentiable_loss(*programs, copies, key=key())

        found = [
            jax.jit(jax.value_and_grad(lambda w, b=b: loss_of(w, b)))(weights_of(model))
            for b in (None, "average", BaselineNet(3, (2,), key=key()))
        ]
    for loss, grads in found[1:]:
        np.testing.assert_allclose(loss, found[0][0], rtol=1e-9)
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, found[0][1][name], atol=1e-9, err_msg=name)
            assert np.abs(grad).sum() > 0


class Pair(eqx.Module):
    """A network that is not of the library, of shape (N, 1)."""

    line: Linear

    def __call__(self, x):
        return self.line(x)


def own_net(kind):
    if kind == "average":
        return kind
    return (
        BaselineNet(X_DIM, (4,), key=key(5))
        if kind == "net"
        else Pair(Linear(X_DIM, 1, key=key(5)))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch_size"), [("average", 24), ("net", 20)])
def test_a_resumed_run_is_the_uninterrupted_one(kind, batch_size, tmp_path):
    """With 24 data the last batch of an epoch is smaller in the second case."""
    settings = {**QUIET, "batch_size": batch_size}
    baseline, data = own_net(kind), pixels(0)
    objective = ELBO(2, baseline=baseline)
    whole = fit(PORT, *data, objective, epochs=3, out=tmp_path / "whole", **settings)
    out = tmp_path / "part"
    fit(PORT, *data, objective, epochs=1, out=out, **settings)
    rest = fit(PORT, *data, objective, epochs=3, out=out, resume=True, **settings)
    assert same(whole.model, rest.model)
    for column in ("loss", "baseline"):
        assert np.array_equal(whole[column], rest[column])
    assert len(set(whole["baseline"])) == 3
    (saved, _), (others, _) = (read(f / "checkpoint.safetensors") for f in (out, whole.out))
    assert saved.keys() == others.keys()
    assert all(np.array_equal(saved[name], others[name]) for name in saved)
    if kind != "average":
        for name, value in parameters(baseline).items():  # which fit leaves as it is
            trained = saved[f"network.baseline.{name}"]
            assert trained.shape == value.shape
            assert not np.array_equal(trained, value)
    for other in {"average", "net", "other"} - {kind}:
        another = ELBO(2, baseline=own_net(other))
        with pytest.raises(ValueError, match=r"objective\.(network|baseline) was"):
            fit(PORT, *data, another, epochs=3, out=out, resume=True, **settings)


def test_it_steps_as_pyros_fit_does():
    """With latents that are given, where nothing is random, and all data in a batch."""
    model, port = make_pair(CASE["sbn"].model)
    port = port.with_weights(model.state_dict())
    ours, theirs = nets(X_DIM)
    ours.float()
    theirs = with_parameters(theirs, weights_of(ours))
    data = pixels(0)[0]
    settings = {**QUIET, "batch_size": len(data), "epochs": 4}
    values = {
        name: np.random.default_rng(0).integers(0, 2, (1, dim)).repeat(len(data), 0)
        for name, dim in zip(("z_1", "z_2"), (p.shape[0] for p in bits(model)), strict=True)
    }
    with Given({name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}):
        history = ppl_vae.inference.fit(
            model, data, ppl_vae.inference.ELBO(baseline=ours), **settings
        )
    with numpyro.handlers.substitute(data={n: v.astype(np.float32) for n, v in values.items()}):
        run = fit(port, data, ELBO(baseline=theirs), **settings)
    np.testing.assert_allclose(run["loss"], history["loss"], rtol=1e-4)
    np.testing.assert_allclose(run["baseline"], history["baseline"], rtol=1e-4)
    for name, value in run.model.state_dict().items():
        np.testing.assert_allclose(value, model.state_dict()[name], atol=2e-4, err_msg=name)


def bits(model):
    return [encoder.logits.weight for encoder in model.encoders]


@pytest.mark.slow
def test_what_is_measured_has_no_baseline():
    run = fit(PORT, *pixels(0), ELBO(baseline="average"), epochs=1, validation=pixels(1), **QUIET)
    assert run["validation_loss"][0] == mean_loss(run.model, pixels(1))
    assert ELBO(baseline=own_net("net")).for_evaluation().baseline is None


def test_a_network_with_dropout_has_random_numbers():
    net = MLP(X_DIM, (1,), "tanh", (0.5, 0.0), key=key(5))
    objective = ELBO(baseline=net).with_state({"baseline": jnp.asarray(C)})

    def gradient(weights, on):
        def loss(weights):
            changed = objective.with_network_weights(
                {f"baseline.{n}": w for n, w in weights.items()}
            )
            with training() if on else nullcontext():
                return changed.differentiable_loss(PORT.model, PORT.guide, *pixels(0), key=key())

        return jax.grad(loss)(weights)["layers.0.weight"]

    off, on = (jax.jit(gradient, static_argnums=1)(parameters(net), on) for on in (False, True))
    assert np.isfinite(on).all()
    assert not np.allclose(off, on)


class Extra(eqx.Module):
    net: BaselineNet
    extra: jax.Array

    def __call__(self, x):
        return self.net(x)


def fitted(baseline, case="sbn", **settings):
    port = PORT if case == "sbn" else make_pair(CASE[case].model)[1]
    return fit(port, *pixels(0), ELBO(baseline=baseline), epochs=1, **{**QUIET, **settings})


def in_svi(baseline):
    loss = ELBO(baseline=baseline)
    svi = numpyro.infer.SVI(PORT.model, PORT.guide, numpyro.optim.Adam(1e-2), loss)
    return svi.update(svi.init(key(), *pixels(0)), *pixels(0))


def other_shapes(tmp_path):
    class Sum(eqx.Module):
        v: jax.Array
        size: int = eqx.field(static=True)

        def __repr__(self):
            return "Sum"

        def __call__(self, x):
            return self.v.sum() * x[:, 0]

    fitted(Sum(jnp.ones(2), 2), out=tmp_path)
    return fitted(Sum(jnp.ones(3), 3), out=tmp_path, resume=True)


@pytest.mark.slow
def test_what_it_refuses(tmp_path):
    nan = eqx.tree_at(lambda n: n.value.bias, own_net("net"), jnp.full(1, math.nan))
    for call, says in (
        (lambda: ELBO(baseline="mean"), r"baseline .* equinox\.Module, was 'mean'"),
        (lambda: ELBO(baseline=BaselineNet), "baseline .* was the class BaselineNet"),
        (
            lambda: fitted(Linear(X_DIM, 2, key=key())),
            r"baseline .* shape \(10,\) or \(10, 1\), gave shape \(10, 2\)",
        ),
        (lambda: fitted("average", "vae"), "baseline should be None .* was 'average'"),
        (lambda: in_svi("average"), "baseline should be None in numpyro.infer.SVI"),
        (lambda: in_svi(own_net("net")), "use ppl_vae.numpyro.inference.fit"),
        (lambda: fitted(nan), "parameter 'network:baseline.value.bias' should be finite"),
        (
            lambda: fitted(Extra(own_net("net"), jnp.ones(1))),
            "did not: network:baseline.extra",
        ),
        (lambda: other_shapes(tmp_path), "objective should have the networks of the run"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("analytic_kl", [False, True])
def test_free_bits_per_unit_are_those_of_pyro(k, analytic_kl):
    model, port = make_pair(CASE["ladder"].model)
    model.double()
    (x,) = (array.astype(np.float64) for array in pixels(0))
    settings = {"analytic_kl": analytic_kl, "beta": 0.7, "free_bits": FreeBits(0.15, "unit")}
    with TorchNoise():
        ours, plain = (
            ppl_vae.inference.ELBO(k, **{**settings, **changes}).differentiable_loss(
                model.model, model.guide, torch.tensor(x)
            )
            for changes in ({}, {"free_bits": FreeBits(0.15)})
        )
    assert abs(ours - plain) > 1e-3
    grads = torch.autograd.grad(ours, list(model.parameters()), allow_unused=True)
    with float64():

        def loss(weights):
            this = with_parameters(port, weights)
            with Noise():
                return ELBO(k, **settings).differentiable_loss(this.model, this.guide, x, key=key())

        theirs, found = jax.jit(jax.value_and_grad(loss))(weights_of(model))
    np.testing.assert_allclose(theirs, ours.item(), rtol=1e-9)
    for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
        expected = 0.0 if grad is None else grad
        np.testing.assert_allclose(found[name], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.slow
def test_free_bits_that_cannot_be_told_apart():
    def program(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))

    objective = ELBO(free_bits=FreeBits(1.0, "unit"))
    with pytest.raises(ValueError, match=r"cannot be told apart.*'z', a MultivariateNormal"):
        objective.differentiable_loss(program, program, jnp.zeros(3), key=key())


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
def test_free_bits_of_places_in_an_inner_plate(k):
    loc = jnp.array([[0.1, 2.0, 0.3], [1.5, 0.2, 0.1]])

    def program(loc):
        def run(x):
            with numpyro.plate("data", len(x), dim=-1), numpyro.plate("row", 2, dim=-2):
                where = jnp.broadcast_to(loc[:, None], (2, len(x), 3))
                numpyro.sample("z", dist.Normal(where, 1.0).to_event(1))

        return run

    def loss(nats):
        elbo = ELBO(k, True, free_bits=FreeBits(nats, "unit"), max_plate_nesting=2)
        return elbo.differentiable_loss(program(0 * loc), program(loc), jnp.zeros(5), key=key())

    expected = 5 * jnp.maximum(0.5 - 0.5 * loc**2, 0).sum()
    np.testing.assert_allclose(loss(0.5) - loss(0.0), expected, rtol=1e-5)
