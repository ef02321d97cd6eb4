"""Compiled steps on a CUDA device, replayed as one CUDA graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.inference.compilation.capture import Function

WARM_UP = 3
"""Runs before the capture, in which libraries take what memory they want to keep."""


def replayed(run: Function, held: Sequence[Tensor], batch: Sequence[Tensor]) -> Function:
    """`run(*held, *batch)` as one launch: a function of the batch, which is copied to where it was.

    What `run` writes to is afterwards as it was before: it is run to warm up, on copies that are
    put back. Its random numbers are drawn anew in every replay, from torch's generator.

    Args:
        run: Takes tensors of the device, writes to some of them and returns one.
        held: Its arguments that stay the same tensors.
        batch: Those that do not.
    """
    inputs = [*held, *batch]
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

    def replay(*given: Tensor) -> Tensor:
        for tensor, value in zip(batch, given, strict=True):
            tensor.copy_(value)
        graph.replay()
        return result.clone()  # the next replay writes to the same memory

    return replay
