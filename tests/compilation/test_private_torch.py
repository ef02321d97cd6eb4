"""Private names of torch: each exists, none is used elsewhere, and without one steps are eager."""

import logging
import re

import pytest
import torch
from support import CASE, ROOT, make, objective_of, tensors

from ppl_vae.inference.compilation import private_torch
from ppl_vae.inference.compilation.capture import capture
from ppl_vae.inference.compilation.private_torch import CannotCapture
from ppl_vae.inference.training.step import svi_step

HOME = ROOT / "ppl_vae" / "inference" / "compilation" / "private_torch.py"


def test_this_torch_has_every_name() -> None:
    private_torch.check_available()
    assert private_torch._missing == []


def test_fake_tensors_are_what_a_captured_program_sees() -> None:
    seen: list[type] = []

    def program(x: torch.Tensor) -> torch.Tensor:
        seen.append(type(x))
        return x + 1

    capture(program, [torch.zeros(2)])
    assert all(issubclass(kind, private_torch.FakeTensor) for kind in seen)
    assert seen


def test_a_dispatch_mode_sees_operations() -> None:
    names: list[str] = []

    class Mode(private_torch.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Mode():
        torch.ones(2) + 1
    assert "add" in names


def test_values_can_be_read_during_a_capture() -> None:
    number, read = torch.tensor(3.0), []

    def program(x: torch.Tensor) -> torch.Tensor:
        with private_torch.disable_current_modes():
            read.append(number.item())
        return x + 1

    capture(program, [torch.zeros(2)])
    assert read == [3.0] * len(read)
    assert read


def test_trees_are_flattened_in_order() -> None:
    tree = {"a": [1, 2], "b": (3, {"c": 4})}
    leaves, spec = private_torch.tree_flatten(tree)
    assert leaves == [1, 2, 3, 4]
    assert private_torch.tree_unflatten(leaves, spec) == tree


def test_the_compiler_has_its_parts() -> None:
    parts = private_torch.inductor()
    assert torch.ops.mkldnn._linear_pointwise.default in parts.lowerings
    assert callable(parts.compile)
    assert callable(parts.fallback_handler)
    assert callable(parts.kernel.require_contiguous)
    assert isinstance(parts.graph_pass, type)


def test_a_storage_has_an_identity() -> None:
    x = torch.zeros(3)
    assert private_torch.storage_id(x) == private_torch.storage_id(x.view(3, 1))
    assert private_torch.storage_id(x) != private_torch.storage_id(torch.zeros(3))


def test_they_stand_in_one_file() -> None:
    private = re.compile(r"(from|import) torch\.[\w.]*\._|(from|import) torch\._|torch\._[a-z]")
    public = re.compile(r"torch\.ops\._c10d_functional")  # the operations behind torch.distributed
    for path in (ROOT / "ppl_vae").rglob("*.py"):
        if path != HOME:
            lines = [line for line in path.read_text().splitlines() if private.search(line)]
            assert all(public.search(line) for line in lines), (path, lines)


def test_without_one_steps_are_eager_and_say_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "torch.utils._pytree.tree_flatten"
    monkeypatch.setattr(private_torch, "_missing", [name])
    case = CASE["vae"]
    batch = tensors(case.data(0))
    model, objective = make(case), objective_of(case)
    settings = (model, objective, torch.optim.Adam(model.parameters()), batch)
    with pytest.raises(CannotCapture, match=rf"was True: this version of torch .* {name}"):
        svi_step(*settings, compile=True)
    with caplog.at_level(logging.WARNING, "ppl_vae"):
        step = svi_step(*settings, compile="auto")
    assert f"steps are not compiled: this version of torch does not have {name}" in caplog.text
    assert step(*batch).isfinite()
    assert not step.graphs


def test_a_name_that_is_gone_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_torch, "_missing", [])
    assert private_torch._find("torch.utils._pytree", "no_such_name", "default") == "default"
    assert private_torch._find("torch.no_such_module", "name", None) is None
    with pytest.raises(CannotCapture, match=r"_pytree\.no_such_name, torch\.no_such_module\.name"):
        private_torch.check_available()
