"""Products by oneDNN in compiled graphs: the same numbers, and only where they are faster."""

import os
import subprocess
import sys

import pytest
import torch
from support import PYTHONPATH
from torch import Tensor
from torch._inductor.lowering import lowerings
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.inference.compilation import onednn
from ppl_vae.inference.compilation.capture import capture, compile_graph

LINEAR = torch.ops.mkldnn._linear_pointwise.default
BIG = 200  # 200^3 multiplications are worth it


def products(x: Tensor, w: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """A product of each kind that a step has."""
    layer = torch.nn.functional.linear(x, w[:, :BIG], bias)
    return (
        layer,
        torch.addmm(layer, layer, w[:, BIG:].t()),
        layer.sigmoid().t() @ x,
        layer @ w[:, 1 : BIG + 1],
    )


def inputs(dtype: torch.dtype = torch.float32, size: int = BIG) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (size, size), (size, 2 * size), (size,)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def exchanged(function: object, given: list[Tensor]) -> int:
    """How many products of the function oneDNN does."""
    graph = make_fx(function, tracing_mode="fake")(*given)
    onednn.replace_products(graph.graph)
    return sum(node.target is LINEAR for node in graph.graph.nodes)


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_products_are_the_same() -> None:
    given, before = inputs(), lowerings[LINEAR]
    assert exchanged(products, given) == 4
    found = compile_graph(capture(products, given), given)(*given)
    for value, wanted in zip(found, products(*given), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-3)
    assert lowerings[LINEAR] is before


def test_other_products_stay() -> None:
    assert exchanged(products, inputs(torch.double)) == 0

    def small(x: Tensor) -> Tensor:
        return x @ x

    assert exchanged(small, [torch.ones(143, 143)]) == 0
    assert exchanged(small, [torch.ones(145, 145)]) == 1


FAULTS = """
import resource, sys
import torch
from ppl_vae.inference.compilation import allocator

torch.set_num_threads(1)
allocator.retain_freed_memory()

def work():
    held = [torch.ones(2**20) for _ in range(8)]
    return held[0].sum()

for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_freed_memory_is_used_again() -> None:
    """8 arrays of 4 MB, twenty times: 1000 pages each, or none that is new."""

    def faults(**settings: str) -> int:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        environment = {**inherited, "PYTHONPATH": PYTHONPATH, **settings}
        command = [sys.executable, "-c", FAULTS]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    returned = faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert returned > 20_000
    assert faults() < 0.05 * returned
