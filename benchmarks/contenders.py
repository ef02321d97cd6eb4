"""The training step of this library and of hand-written torch, ready to be called repeatedly."""

from collections.abc import Callable
from typing import Any

import torch
from other_libraries import numpyro_svi, pixyz_vae, pyro_svi, pythae_vae
from speed_cases import COMPILED, COMPILED_KEPT, EAGER, GRAPH, NUMPYRO, PIXYZ, PYRO, PYTHAE, Case
from torch import Tensor, nn

Step = Callable[[], Any]
Make = Callable[[Case, torch.device], Step]
OURS, OURS_EAGER = "ppl_vae compiled", "ppl_vae eager"


def ours(case: Case, device: torch.device, compile: bool) -> Step:
    from ppl_vae import inference, models
    from ppl_vae.inference.training.step import svi_step

    model = case.model(models).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.as_tensor(case.images(), device=device)
    step = svi_step(model, case.objective(inference), optimizer, (x,), compile=compile)
    return lambda: step(x)


def by_hand(case: Case, device: torch.device, compile: bool, kept: bool = False) -> Step:
    if kept:
        from ppl_vae.inference.compilation.allocator import retain_freed_memory

        retain_freed_memory()
    module, optimizer, x = _parts(case, device)
    loss_of: Any = torch.compile(module) if compile else module

    def step() -> None:
        optimizer.zero_grad()
        loss_of(x).backward()
        optimizer.step()

    return step


def by_hand_in_a_graph(case: Case, device: torch.device) -> Step:
    """Return a step that replays loss, gradients and Adam as one CUDA graph."""
    module, optimizer, x = _parts(case, device, capturable=True)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is made in the first steps should not be in the graph
        for _ in range(3):
            optimizer.zero_grad()
            module(x).backward()
            optimizer.step()
    torch.cuda.current_stream().wait_stream(aside)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(x).backward()
        optimizer.step()
    return graph.replay


def _parts(
    case: Case, device: torch.device, **settings: Any
) -> tuple[nn.Module, torch.optim.Optimizer, Tensor]:
    module = case.by_hand().to(device)
    optimizer = torch.optim.Adam(module.parameters(), fused=True, **settings)
    return module, optimizer, torch.as_tensor(case.images(), device=device)


CONTENDERS: dict[str, Make] = {
    OURS: lambda case, device: ours(case, device, True),
    OURS_EAGER: lambda case, device: ours(case, device, False),
    COMPILED: lambda case, device: by_hand(case, device, True),
    COMPILED_KEPT: lambda case, device: by_hand(case, device, True, kept=True),
    EAGER: lambda case, device: by_hand(case, device, False),
    GRAPH: by_hand_in_a_graph,
    PYRO: pyro_svi,
    NUMPYRO: numpyro_svi,
    PYTHAE: pythae_vae,
    PIXYZ: pixyz_vae,
}


def contenders(case: Case, device: str) -> list[str]:
    """Return the names of the contenders for a case and a device."""
    names = [OURS, OURS_EAGER, COMPILED, COMPILED_KEPT, EAGER]
    if device == "cuda":
        names = [OURS, OURS_EAGER, COMPILED, EAGER, GRAPH]
    names += [PYRO] if case.pyro else []
    if device == "cpu":
        names += [NUMPYRO] if case.numpyro else []
        names += [PYTHAE, PIXYZ] if case.hidden else []
    return names
