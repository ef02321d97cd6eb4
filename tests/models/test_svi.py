"""Pyro's private stack of handlers, which tells a model that SVI collects parameters."""

import pyro
import pyro.poutine.runtime
import torch
from pyro import poutine
from pyro.poutine.trace_messenger import TraceMessenger

from ppl_vae import VAE
from ppl_vae.models import svi


def test_pyro_keeps_its_active_handlers_in_the_private_stack() -> None:
    assert svi._PYRO_STACK is pyro.poutine.runtime._PYRO_STACK
    with poutine.trace(param_only=True) as trace:
        assert trace in svi._PYRO_STACK
        assert isinstance(trace, TraceMessenger)
        assert trace.param_only
    assert trace not in svi._PYRO_STACK


def test_parameters_are_registered_only_while_they_are_collected() -> None:
    model, x = VAE(6, 2, (4,)), torch.rand(3, 6)
    poutine.trace(model.model).get_trace(x)
    assert len(pyro.get_param_store()) == 0
    with poutine.trace(param_only=True) as collected:
        model.guide(x)
    values = [node["value"] for node in collected.trace.nodes.values() if node["type"] == "param"]
    assert {id(value) for value in values} == {id(value) for value in model.parameters()}
