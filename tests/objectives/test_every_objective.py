"""What holds for every objective, with programs that are plain functions of `pyro.param`."""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bounds
import pyro
import pytest
import torch
from every_objective import (
    FOR_FIT_ALONE,
    LOSSES,
    OF_GUIDE,
    START,
    Kind,
    N,
    Pair,
    data,
    every_loss,
    found,
)
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from support import assert_same, gradients
from torch import Tensor
from toy import Toy

import ppl_vae.inference
from ppl_vae import ELBO
from ppl_vae.inference import (
    CUBO,
    IWAE,
    MIWAE,
    TVO,
    VIMCO,
    Objective,
    Renyi,
)
from ppl_vae.inference.objectives.parts.base import PyroObjective
from ppl_vae.inference.objectives.wake_sleep import RWS


def test_every_objective_is_in_the_table() -> None:
    """Those of every file, whether or not they are in the catalogue yet."""
    package = ppl_vae.inference
    modules = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    files = [importlib.import_module(module.name) for module in modules]
    found = {
        thing
        for file in files
        for name, thing in vars(file).items()
        if inspect.isclass(thing) and issubclass(thing, Objective) and not name.startswith("_")
    }
    concrete = {cls for cls in found if not inspect.isabstract(cls)} - {PyroObjective}
    names = {cls.__name__ for cls in concrete} - FOR_FIT_ALONE
    assert names == {type(loss.make()).__name__ for loss in LOSSES.values()}


@every_loss
def test_svi_trains_functions_with_pyro_param_on_minibatches(name: str) -> None:
    loss = LOSSES[name]
    x = (*data(loss)[:1], torch.tensor([0, 1, -1, 1, -1, -1])) if loss.labels else data(loss)
    for kind in loss.kinds:
        pyro.clear_param_store()
        pair, objective = Pair(kind, loss.batch), loss.make()
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective)
        moved: set[str] = set()
        for _ in range(3):
            assert isinstance(svi.step(*x), float)
            moved |= {n for n in START if abs(pyro.param(n).item() - START[n]) > 1e-4}
        assert sorted(moved) == sorted(loss.trains)
        drawn = pair.drawn[0]
        assert objective.num_particles == loss.particles
        assert drawn[:-1] == ((loss.particles,) if loss.particles > 1 else ())


@every_loss
def test_a_scale_multiplies_value_and_gradient(name: str) -> None:
    loss = LOSSES[name]
    for kind in loss.kinds:
        pair, x = Pair(kind), data(loss)
        scaled = lambda p: poutine.scale(p, scale=2.5)  # noqa: E731
        if loss.batch == "whole":
            with pytest.raises(ValueError, match="scale"):
                found(loss, pair, x, scaled)
            continue
        expected = [2.5 * value for value in found(loss, pair, x)]
        assert_same(found(loss, pair, x, scaled), expected)
        assert_same(found(loss, Pair(kind, "given"), x), [v * 2 / 2.5 for v in expected])


def test_labels_are_scaled_like_the_rest() -> None:
    loss, pair = LOSSES["SemiSupervised"], Pair("label")
    x = data(loss)[0], torch.tensor([0, 1, -1, 1, -1, -1])
    expected = [2.5 * value for value in found(loss, pair, x)]
    assert_same(found(loss, pair, x, lambda p: poutine.scale(p, scale=2.5)), expected)


@every_loss
def test_a_masked_datum_counts_for_nothing(name: str) -> None:
    loss = LOSSES[name]
    mask = torch.arange(N) < N // 2
    for kind in loss.kinds:
        pair, x = Pair(kind), data(loss)
        half = tuple(part[: N // 2] for part in x)
        masked = lambda p: poutine.mask(p, mask=mask)  # noqa: E731
        if name == "ELBO-free-bits":
            with pytest.raises(ValueError, match="mask"):
                found(loss, pair, x, masked)
            continue
        assert_same(found(loss, pair, x, masked), found(loss, pair, half))


@every_loss
def test_numbers_in_an_inner_plate_are_those_of_one_event(name: str) -> None:
    loss = LOSSES[name]
    for kind in loss.kinds:
        in_plate = found(loss, Pair(kind, units="plate"), data(loss, "plate"), nesting=2)
        in_event = found(loss, Pair(kind, units="event"), data(loss, "event"))
        assert_same(in_plate, in_event)


@every_loss
def test_latents_that_it_is_not_for_are_refused(name: str) -> None:
    loss = LOSSES[name]
    others: set[Kind] = set() if loss.labels else {"number", "class"} - set(loss.kinds)
    for kind in others:
        with pytest.raises(ValueError, match=loss.refuses):
            found(loss, Pair(kind), data(loss))


class OnGrid(Messenger):
    """Gives y these values, and z the places of these standard normal numbers."""

    def __init__(self, y: Tensor, number: Tensor) -> None:
        super().__init__()
        self.y, self.number = y, number

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and msg["name"] == "y":
            msg["value"] = self.y
        elif msg["value"] is None and msg["name"] == "z":
            msg["value"] = msg["fn"].mean + msg["fn"].stddev * self.number


@dataclass(frozen=True)
class AllPairs:
    """All pairs of draws of a class and a number, of one datum: (pairs, 2), log p with x.

    Attributes:
        prob: Probability of each pair.
        log_p: log p(x, y, z).
        log_q: log q(y, z | x).
    """

    prob: Tensor
    log_p: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        return self.log_p - self.log_q


CLASS, NODE = torch.cartesian_prod(torch.arange(3), torch.arange(12)).T
EACH = torch.cartesian_prod(torch.arange(len(CLASS)), torch.arange(len(CLASS)))


def all_pairs(toy: Toy, x: Tensor, path: bool) -> AllPairs:
    """Those of a toy, whose draws lead back to the guide if there is a `path`."""
    numbers, log_prob = bounds.nodes(12)
    log_q_y = (toy.w * x + toy.u).log_softmax(-1)[CLASS]
    loc, scale = (toy.g + toy.h * x)[CLASS], toy.s.exp()[CLASS]
    z = loc + scale * numbers[NODE]
    z = z if path else z.detach()
    log_p = toy.pi.log_softmax(-1)[CLASS] + bounds.standard_normal(z)
    log_p = log_p + bounds.standard_normal(x - toy.a * z - toy.m[CLASS])
    log_q = log_q_y + bounds.standard_normal((z - loc) / scale) - scale.log()
    prob = (log_prob[NODE] + log_q_y).exp()
    return AllPairs(prob[EACH].prod(1), log_p[EACH], log_q[EACH])


def on_all_pairs(objective: Objective, toy: Toy, x: Tensor) -> Tensor:
    """The expected loss: every pair is a datum, whose scale is its probability."""
    prob = all_pairs(toy, x, path=False).prob.detach()
    programs = [poutine.scale(program, scale=prob) for program in (toy.model, toy.guide)]
    with OnGrid(CLASS[EACH].T, bounds.nodes(12)[0][NODE][EACH].T):
        return objective.differentiable_loss(*programs, x.expand(len(EACH)))


BOUNDS = {
    "ELBO": (ELBO(2), lambda log_w: log_w.mean(-2)),
    "average": (ELBO(2, baseline="average"), lambda log_w: log_w.mean(-2)),
    "IWAE": (IWAE(2), bounds.log_mean_exp),
    "MIWAE": (MIWAE(2, 1), lambda log_w: log_w.mean(-2)),
    "Renyi": (Renyi(3.0, 2), lambda log_w: -((-2 * log_w).exp().mean(-2).log()) / 2),
    "VIMCO": (VIMCO(2), bounds.log_mean_exp),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_mixed_latents_get_the_gradient_of_the_expected_bound(name: str) -> None:
    (objective, bound), toy = BOUNDS[name], Toy(3, marked=False)
    x = torch.tensor(0.4, dtype=torch.double)

    def exactly() -> Tensor:
        pairs = all_pairs(toy, x, path=True)
        return -(pairs.prob * bound(pairs.log_w.T)).sum()

    ours = lambda: on_all_pairs(objective, toy, x)  # noqa: E731
    assert_same(gradients(ours, toy.parameters), gradients(exactly, toy.parameters))


def with_gradient(prob: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """A sum over pairs, of these values and with the gradient of these targets."""
    return (prob.detach() * (value.detach() + target - target.detach())).sum()


def rws(pairs: AllPairs) -> Tensor:
    log_w = pairs.log_w.detach()
    target = -(log_w.softmax(1) * (pairs.log_p + pairs.log_q)).sum(1)
    return with_gradient(pairs.prob, -bounds.log_mean_exp(log_w.T), target)


def cubo(pairs: AllPairs) -> Tensor:
    log_w = pairs.log_w.detach()
    target = -0.5 * ((2 * log_w).softmax(1) * pairs.log_q).sum(1)
    return with_gradient(pairs.prob, (2 * log_w).exp().mean(1).log() / 2, target)


def tvo(pairs: AllPairs, sign: int = -1) -> Tensor:
    """The sum over two intervals of E[log w], and d E[log w] = E[d log w] + Cov."""
    log_w, edges = pairs.log_w.detach(), (0.0, 10**-1.09, 1.0)
    log_p = pairs.log_p.detach() if sign > 0 else pairs.log_p
    value, target = torch.zeros(()), torch.zeros(())
    for left, right in itertools.pairwise(edges):
        beta = right if sign > 0 else left
        share = (beta * log_w).softmax(1)
        mean = (share * log_w).sum(1)
        log_pi = beta * log_p + (1 - beta) * pairs.log_q
        change = (share * (log_p - pairs.log_q)).sum(1)
        change = change + 2 * (share * (log_w - mean[:, None]) * log_pi).sum(1)
        value, target = value + (right - left) * mean, target + (right - left) * change
    return with_gradient(pairs.prob, sign * value, sign * target)


DEFINED: dict[str, tuple[Objective, Callable[[AllPairs], Tensor]]] = {
    "RWS": (RWS(2), rws),
    "CUBO": (CUBO(2.0, 2), cubo),
    "TVO": (TVO(2), tvo),
    "TVO-upper": (TVO(2, 2, "upper"), lambda pairs: tvo(pairs, 1)),
}


@pytest.mark.parametrize("name", DEFINED)
def test_mixed_latents_by_the_definition_of_the_gradient(name: str) -> None:
    (objective, defined), toy = DEFINED[name], Toy(3, marked=False)
    x = torch.tensor(0.4, dtype=torch.double)
    of_guide = [toy.w, toy.u, toy.g, toy.s, toy.h]
    trained = of_guide if LOSSES[name].trains == OF_GUIDE else toy.parameters
    ours = gradients(lambda: on_all_pairs(objective, toy, x), trained)
    assert_same(ours, gradients(lambda: defined(all_pairs(toy, x, path=False)), trained))
