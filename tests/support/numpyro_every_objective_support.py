"""Helpers for `tests/port/objectives/test_every_objective.py` and its siblings."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from port_support import jax, jnp

import ppl_vae.numpyro.inference
from ppl_vae.numpyro.inference import Objective
from ppl_vae.numpyro.inference.objectives.parts.base import NumPyroObjective

eqx = pytest.importorskip("equinox")


def objectives():
    """The classes of every file, whether or not they are in the catalogue yet, by name."""
    package = ppl_vae.numpyro.inference
    modules = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    files = [importlib.import_module(module.name) for module in modules]
    return {
        name: thing
        for file in files
        for name, thing in vars(file).items()
        if inspect.isclass(thing)
        and issubclass(thing, Objective)
        and not any(getattr(value, "__isabstractmethod__", False) for value in _members(thing))
        and not name.startswith("_")
        and thing is not NumPyroObjective
    }


def _members(cls):
    return [getattr(cls, name) for name in dir(cls)]


PORT = objectives()


class Line(eqx.Module):
    """A baseline C(x) = v x + 1."""

    v: jax.Array

    def __call__(self, x):
        return self.v * x.reshape(len(x), -1).sum(-1) + 1


def make(loss, **more):
    """The port's objective with the arguments of Pyro's."""
    settings = dict(loss.make.keywords)
    if isinstance(settings.get("baseline"), torch.nn.Module):
        settings["baseline"] = Line(jnp.asarray(settings["baseline"].v.item()))
    objective = PORT[loss.make.func.__name__](*loss.make.args, **settings, **more)
    return objective.with_state(objective.state())


VARIANTS = {
    "ELBO-closed-kl",
    "ELBO-beta",
    "ELBO-free-bits",
    "VIMCO-arithmetic",
    "RWS",
    "Relaxed-hard",
}
"""Of classes that another row has: to compile each would take most of the time."""
