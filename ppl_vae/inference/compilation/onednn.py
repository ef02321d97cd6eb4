"""Matrix products of compiled steps on a CPU by oneDNN, where it is faster than MKL.

torch multiplies single precision matrices by MKL, which does not use the widest vectors of
processors that are not Intel's: oneDNN takes half of its time there. Of small matrices the calls
cost more than they save.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

WORTH_IT = 3_000_000
"""Multiplications from which on oneDNN is faster (784-64 and 200-200 with batches of 100)."""
MULTIPLIED = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


class Products(CustomGraphPass):
    """Exchanges a graph's large matrix products in single precision on the CPU, in place."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if node.target in MULTIPLIED and not node.kwargs and _worth_it(node):
                _exchange(graph, node)

    def uuid(self) -> str:
        """What is cached of compiled graphs depends on this."""
        return f"ppl_vae.onednn, 1, {WORTH_IT}"


def _worth_it(node: fx.Node) -> bool:
    left, right = (_value(part) for part in node.args[-2:])
    if left.device.type != "cpu" or left.dtype != torch.float32:
        return False
    return bool(left.shape[0] * left.shape[1] * right.shape[1] >= WORTH_IT)


def _exchange(graph: fx.Graph, node: fx.Node) -> None:
    *added, left, right = node.args
    with graph.inserting_before(node):

        def call(function: Any, *arguments: Any, **options: Any) -> fx.Node:
            made = graph.call_function(function, arguments, options)
            values = fx.node.map_arg(arguments, _value)
            made.meta["val"] = function(*values, **options)
            return made

        matrix = _value(right)
        if not matrix.is_contiguous() and not matrix.t().is_contiguous():
            # Of a part of a matrix oneDNN has a plain loop alone.
            right = call(torch.ops.aten.clone.default, right, memory_format=torch.contiguous_format)
        bias = added[0] if added and _value(added[0]).dim() == 1 else None
        weight = call(torch.ops.aten.permute.default, right, [1, 0])
        linear = torch.ops.mkldnn._linear_pointwise.default
        product = call(linear, left, weight, bias, "none", [], "")
        if added and bias is None:  # a matrix that is added
            product = call(torch.ops.aten.add.Tensor, product, added[0])
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _value(node: Any) -> Any:
    """The fake tensor that stands for the node's value."""
    return node.meta["val"]


@contextmanager
def callable_from_graphs() -> Iterator[None]:
    """torch's compiler takes oneDNN's product of matrices that change, as those of a step do.

    By itself it takes only constant weights, of frozen networks.
    """
    from torch._inductor import ir
    from torch._inductor.lowering import fallback_handler, lowerings

    operation = torch.ops.mkldnn._linear_pointwise.default
    called = fallback_handler(operation, add_to_fallback_set=False)

    def lowering(left: Any, *rest: Any) -> Any:
        # A copy made by the compiler is faster than oneDNN's own.
        return called(ir.ExternKernel.require_contiguous(left), *rest)

    before = lowerings[operation]
    lowerings[operation] = lowering
    try:
        yield
    finally:
        lowerings[operation] = before
