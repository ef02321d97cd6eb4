"""Replay of compiled steps as a single CUDA graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.inference.compilation.capture import Function

WARM_UP = 3
"""Runs before the capture, in which libraries allocate their workspaces."""


def as_cuda_graph(run: Function, fixed: Sequence[Tensor], batch: Sequence[Tensor]) -> Function:
    """Capture `run(*fixed, *batch)` as a CUDA graph and return it as a function of the batch.

    The tensors that `run` changes and the state of torch's generator are restored after warm-up
    and capture. Every replay draws new random numbers from torch's generator.

    Args:
        run: A function of CUDA tensors that changes some of them in place and returns one.
        fixed: Arguments that remain the same tensors.
        batch: The other arguments, an example; every replay copies its arguments to them.
    """
    inputs = [*fixed, *batch]
    device = inputs[-1].device
    before, random = [tensor.clone() for tensor in inputs], torch.cuda.get_rng_state(device)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run(*inputs)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result: Tensor = run(*inputs)
    for tensor, value in zip(inputs, before, strict=True):
        tensor.copy_(value)
    torch.cuda.set_rng_state(random, device)

    def replay(*values: Tensor) -> Tensor:
        for tensor, value in zip(batch, values, strict=True):
            tensor.copy_(value)
        graph.replay()
        return result.clone()  # the next replay writes to the same memory

    return replay
