"""Matrix products of compiled steps by oneDNN on a CPU, where it is faster than MKL.

torch multiplies single-precision matrices by MKL, which does not use the widest vector
instructions of processors other than Intel's: oneDNN takes half the time there. For small matrices
the calls cost more than they save.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from ppl_vae.inference.compilation.private_torch import inductor

MIN_MULTIPLICATIONS = 3_000_000
"""Size of a product from which oneDNN is faster (784-64 and 200-200 with batches of 100)."""
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def products_pass() -> Any:
    """Return `replace_products` as a pass of torch's compiler."""

    class Products(inductor().graph_pass):  # type: ignore[misc]  # a class found at run time
        def __call__(self, graph: fx.Graph) -> None:
            replace_products(graph)

        def uuid(self) -> str:
            """Return the part of the compiler's cache key that stands for this pass."""
            return f"ppl_vae.onednn, 1, {MIN_MULTIPLICATIONS}"

    return Products()


def replace_products(graph: fx.Graph) -> None:
    """Replace a graph's large single-precision matrix products on the CPU, in place."""
    for node in list(graph.nodes):
        if node.target in PRODUCTS and not node.kwargs and _is_large(node):
            _replace(graph, node)


def _is_large(node: fx.Node) -> bool:
    left, right = (_value(part) for part in node.args[-2:])
    if left.device.type != "cpu" or left.dtype != torch.float32:
        return False
    return bool(left.shape[0] * left.shape[1] * right.shape[1] >= MIN_MULTIPLICATIONS)


def _replace(graph: fx.Graph, node: fx.Node) -> None:
    *added, left, right = node.args
    with graph.inserting_before(node):

        def call(function: Any, *arguments: Any, **options: Any) -> fx.Node:
            result = graph.call_function(function, arguments, options)
            values = fx.node.map_arg(arguments, _value)
            result.meta["val"] = function(*values, **options)
            return result

        matrix = _value(right)
        if not matrix.is_contiguous() and not matrix.t().is_contiguous():
            # oneDNN multiplies slices of matrices by a plain loop.
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
    """Return the fake tensor that stands for the node's value."""
    return node.meta["val"]


@contextmanager
def callable_from_graphs() -> Iterator[None]:
    """Let torch's compiler call oneDNN's product for matrices that change, such as weights.

    By default it calls it for constant weights only. The table of lowerings is patched inside the
    context and restored afterwards.
    """
    lowerings = inductor().lowerings
    operation = torch.ops.mkldnn._linear_pointwise.default
    called = inductor().fallback_handler(operation, add_to_fallback_set=False)

    def lowering(left: Any, *rest: Any) -> Any:
        # The compiler's copy is faster than oneDNN's own.
        return called(inductor().kernel.require_contiguous(left), *rest)

    before = lowerings[operation]
    lowerings[operation] = lowering
    try:
        yield
    finally:
        lowerings[operation] = before
