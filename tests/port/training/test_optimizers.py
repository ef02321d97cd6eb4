"""Steps of the port are those of torch's optimizers; settings are checked and remembered."""

import numpy as np
import pytest
import torch
from cases import CASES, labelled
from port_support import jnp, make_pair

import ppl_vae.inference
from ppl_vae.numpyro.inference import ELBO, fit
from ppl_vae.numpyro.inference.training.optimizers import Stepping
from ppl_vae.parity import float64
from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.training.history import plain
from ppl_vae.shared.training.optimizers import SGD, Adam, Adamax, AdamW, Optimizer
from ppl_vae.shared.training.turns import Turn

CASE = {case.name: case for case in CASES}
QUIET = {"progress": False, "device": "cpu"}
LR = 0.03
# Settings with which the place of each number shows.
RULES = [
    (Adam(), torch.optim.Adam, {}),
    (
        Adam((0.8, 0.95), 0.3, 0.2),
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 0.3, "weight_decay": 0.2},
    ),
    (AdamW(), torch.optim.AdamW, {}),
    (AdamW(eps=0.3, weight_decay=0.7), torch.optim.AdamW, {"eps": 0.3, "weight_decay": 0.7}),
    (Adamax(), torch.optim.Adamax, {}),
    (
        Adamax((0.8, 0.6), 0.3, 0.2),
        torch.optim.Adamax,
        {"betas": (0.8, 0.6), "eps": 0.3, "weight_decay": 0.2},
    ),
    (SGD(), torch.optim.SGD, {}),
    (SGD(0.8, weight_decay=0.2), torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.2}),
    (
        SGD(0.8, True, 0.2),
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
    ),
]


def name_of(value):
    return repr(value) if isinstance(value, Optimizer) else ""


@pytest.mark.parametrize("clip_norm", [None, 2.0])
@pytest.mark.parametrize(("ours", "theirs", "settings"), RULES, ids=name_of)
def test_a_step_is_torchs(ours, theirs, settings, clip_norm):
    """Some of the gradients have a norm below `clip_norm`, some above, some entries are zero."""
    rng = np.random.default_rng(0)
    first = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in first.items()}
    optimizer = theirs(list(tensors.values()), lr=LR, **settings)
    stepping = Stepping(LR, ours, clip_norm)
    norms = []
    with float64():
        weights = {name: jnp.asarray(value) for name, value in first.items()}
        state = stepping.start(weights)
        for scale in (0.1, 3.0, 0.4, 1e-9, 1.0, 2.0):
            slopes = {n: scale * rng.normal(size=w.shape) for n, w in weights.items()}
            slopes["b"][0] = 0.0
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(slopes[name])
            if clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_(tensors.values(), clip_norm)
                norms.append(float(norm))
            optimizer.step()
            clipped = stepping.clipped({n: jnp.asarray(slope) for n, slope in slopes.items()})
            weights, state = stepping.step(1, weights, clipped, state)
            for name, tensor in tensors.items():
                assert weights[name].dtype == np.float64
                np.testing.assert_allclose(
                    weights[name], tensor.detach().numpy(), rtol=1e-9, atol=1e-9
                )
    assert clip_norm is None or min(norms) < clip_norm < max(norms)


def test_fit_steps_as_torch_does():
    """Nothing is random in a classifier that sees all data at once."""
    model, port = make_pair(CASE["classifier"].model)
    port = port.with_weights(model.state_dict())
    x, y = labelled(0)
    ours = AdamW(eps=0.01, weight_decay=0.5)
    settings = {"epochs": 6, "batch_size": len(x), "lr": 0.05, "optimizer": ours, "clip_norm": 0.1}
    found = fit(port, (x, y), **settings, **QUIET).model.state_dict()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, eps=0.01, weight_decay=0.5)
    data, norms = (torch.tensor(x), torch.tensor(y)), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = ppl_vae.inference.ELBO().differentiable_loss(model.model, model.guide, *data)
        (loss / len(x)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
        optimizer.step()
    assert min(norms) < 0.1 < max(norms)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(found[name], value, atol=2e-5)


class InGroups(ELBO):
    """Encoder and decoder have an optimizer each, and are stepped together."""

    def group_of(self, parameter):
        return parameter.split(".")[0]


class InTurn(InGroups):
    """Steps the encoder, then the decoder."""

    def turns(self):
        return (Turn("encoder"), Turn("decoder"))


@pytest.mark.parametrize("objective", [InTurn(), InGroups()])
def test_the_norm_is_that_of_what_is_stepped(objective):
    _, port = make_pair(CASE["vae"].model)
    (x,) = CASE["vae"].data(0)
    before = port.state_dict()
    settings = {"epochs": 1, "batch_size": len(x), "lr": 1.0, "clip_norm": 0.01}
    after = fit(port, x, objective, optimizer=SGD(), **settings, **QUIET).model.state_dict()
    moved = {name: float(np.square(after[name] - before[name]).sum()) for name in before}
    of = {
        group: sum(value for name, value in moved.items() if name.startswith(group)) ** 0.5
        for group in ("encoder", "decoder", "")
    }
    expected = ["encoder", "decoder"] if isinstance(objective, InTurn) else [""]
    for group in expected:
        assert of[group] == pytest.approx(0.01, rel=1e-3)
    assert of["encoder"] > 1e-4
    assert of["decoder"] > 1e-4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Adam(betas=(0.9, 1.0)), r"betas should be two numbers in \[0, 1\), was"),
        (lambda: AdamW(betas=0.9), r"betas should be two numbers in \[0, 1\), was 0.9"),
        (lambda: Adamax(eps=0.0), "eps should be a positive number, was 0"),
        (lambda: Adam(weight_decay=-1.0), "weight_decay should be at least 0, was -1"),
        (lambda: SGD(momentum=1.0), r"momentum should be a number in \[0, 1\), was 1"),
        (lambda: SGD(nesterov=True), "momentum should be above 0 with nesterov, was 0"),
        (lambda: SGD(0.9, nesterov=1), "nesterov should be True or False, was 1"),
        (lambda: SGD(weight_decay=float("nan")), "weight_decay should be at least 0, was nan"),
        (lambda: Stepping(optimizer="adam"), r"optimizer should be Adam\(\), .*, was 'adam'"),
        (lambda: Stepping(optimizer=Adam), r"optimizer should be Adam\(\), .*, was the class Adam"),
        (lambda: Stepping(clip_norm=0.0), "clip_norm should be a positive number, was 0"),
        (lambda: Stepping(on_nan="ignore"), "on_nan should be stop or skip or restore, was 'ign"),
        (lambda: Stepping(lr=-1.0), "lr should be a positive number, was -1"),
    ],
)
def test_settings_are_checked(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("optimizer", [rule[0] for rule in RULES], ids=name_of)
def test_settings_are_described(optimizer):
    described = plain(optimizer)
    again = Configurable.from_description(described)
    assert again == optimizer
    assert type(again) is type(optimizer)
    assert described != plain(SGD(0.123))


def test_a_resumed_run_has_the_same_settings(tmp_path):
    _, port = make_pair(CASE["classifier"].model)
    given = {"epochs": 1, "batch_size": 24, "out": tmp_path, **QUIET}
    fit(port, labelled(0), optimizer=SGD(0.5), clip_norm=1.0, **given)
    for other, says in (
        ({"optimizer": SGD(0.6)}, r"optimizer\.arguments\.momentum was 0\.5"),
        ({"optimizer": AdamW()}, r"optimizer\.class was 'SGD'"),
        ({"clip_norm": None}, r"clip_norm was 1\.0 when the run started and is now None"),
    ):
        settings = {"optimizer": SGD(0.5), "clip_norm": 1.0, **other}
        with pytest.raises(ValueError, match=says):
            fit(port, labelled(0), resume=True, **settings, **given)
    settings = {"optimizer": SGD(0.5), "clip_norm": 1.0, "on_nan": "restore"}
    assert len(fit(port, labelled(0), resume=True, **settings, **{**given, "epochs": 2}).rows) == 2
