"""Plates beside and inside that of the data, and latents outside of it."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from draws_support import BOTH, A, B, C, N, agree, data, theirs
from plates_support import Globals
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from ppl_vae import ELBO
from ppl_vae.inference.draws import draw


class Nested:
    """Three numbers to each datum, in a plate of their own."""

    def __init__(self, infer: Any = None, latent: Any = None) -> None:
        self.infer = infer or {}
        self.latent = latent

    def plates(self, x: Tensor) -> tuple[Any, Any]:
        return pyro.plate("data", len(x), dim=-1), pyro.plate("inner", 3, dim=-2)

    def model(self, x: Tensor) -> None:
        outer, inner = self.plates(x)
        with outer:
            z = pyro.sample("z", dist.Normal(torch.zeros_like(A), 1.0))
            with inner:
                if self.latent is None:
                    u = pyro.sample("u", dist.Normal(z, 1.0))
                else:
                    u = pyro.sample("u", self.latent, infer=self.infer)
                pyro.sample("x", dist.Normal(A * u, 1.0), obs=x.expand(3, -1))

    def guide(self, x: Tensor) -> None:
        outer, inner = self.plates(x)
        with outer:
            pyro.sample("z", dist.Normal(B * x, C.exp()))
            with inner:
                latent = self.latent or dist.Normal(B * x, C.exp())
                pyro.sample("u", latent, infer=self.infer)


def test_inner_plates_are_summed_within_a_datum() -> None:
    pair, x = Nested(), data()
    pairs = [(ELBO(k, max_plate_nesting=2), theirs(k=k, nesting=2)) for k in (1, 3)]
    agree(pair.model, pair.guide, x, pairs)
    closed = ELBO(analytic_kl=True, max_plate_nesting=2), theirs(TraceMeanField_ELBO, nesting=2)
    agree(pair.model, pair.guide, x, [closed])
    draws = draw(pair.model, pair.guide, x, k=5, max_plate_nesting=2)
    assert {s.log_prob.shape for s in [*draws.model.values(), *draws.guide.values()]} == {(5, N)}


@BOTH
def test_a_plate_too_deep_is_refused_with_advice(k: int) -> None:
    pair = Nested()
    words = r"max_plate_nesting should be at least 2 for .* plate .*at dim -2, was 1"
    with pytest.raises(ValueError, match=words):
        ELBO(k).loss(pair.model, pair.guide, data())


def test_enumeration_inside_an_inner_plate_is_refused() -> None:
    pair = Nested({"enumerate": "parallel"}, dist.Bernoulli(torch.tensor(0.5)))
    with pytest.raises(ValueError, match=r"'u' should be enumerated in the data plate.*inner"):
        ELBO(max_plate_nesting=2).loss(pair.model, pair.guide, data())


def test_latents_outside_the_plate_are_averaged_over_particles() -> None:
    pair = Globals(lambda: dist.Normal(B, C.exp()))
    agree(pair.model, pair.guide, data())
    scaled = [poutine.scale(program, scale=3.0) for program in (pair.model, pair.guide)]
    agree(*scaled, data())


@BOTH
def test_a_discrete_latent_outside_the_plate_is_refused(k: int) -> None:
    pair = Globals(lambda: dist.Poisson(torch.ones_like(A)))
    with pytest.raises(ValueError, match=r"'w' should be reparametrised.*global Poisson"):
        ELBO(k).loss(pair.model, pair.guide, data())


@BOTH
@pytest.mark.parametrize("size", [1, 3])
def test_a_second_plate_in_the_place_of_the_data_is_refused(k: int, size: int) -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("components", size):
            pyro.sample("w", dist.Normal(A.expand(size), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(B * x, 1.0))

    with pytest.raises(ValueError, match=rf"one size.*'components': {size}, 'data': {N}"):
        ELBO(k).loss(program, program, data())
