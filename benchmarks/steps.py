"""Milliseconds per training step of each contender."""

import statistics
import time

import torch
from contenders import CONTENDERS, OURS, Step, contenders
from processes import Found, left_out, row
from speed_cases import CASES, GROWTH, Case, device_of

__all__ = ["CASES", "contenders_of", "measure", "table"]

BLOCK = {"cpu": 1, "cuda": 50}
"""Number of steps between two readings of the clock; on a GPU each reading waits for the work."""
FREED = (
    "  ppl_vae's steps make glibc keep freed memory for the next step"
    " (ppl_vae.inference.compilation.allocator);\n"
    "  of the others only the one that says so does."
)


def case_of(name: str) -> Case:
    """Return a case of the table, or a point of a curve by its name, such as "batch-16"."""
    if name in CASES:
        return CASES[name]
    axis, value = name.rsplit("-", 1)
    return GROWTH[axis][int(value)]


def contenders_of(name: str, device: str) -> list[str]:
    return contenders(case_of(name), device)


def measure(name: str, contender: str, seconds: float, device: str) -> float:
    """Measure the median time of a step in milliseconds over this many seconds."""
    torch.manual_seed(0)
    step = CONTENDERS[contender](case_of(name), device_of(device))
    return milliseconds(step, seconds, device)


def milliseconds(step: Step, seconds: float, device: str) -> float:
    """Return the median after some warm-up steps."""
    block, wait = BLOCK[device], torch.cuda.synchronize if device == "cuda" else _nothing
    for _ in range(5):
        step()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        for _ in range(block):
            step()
        wait()
        times.append((time.perf_counter() - start) / block)
    return 1e3 * statistics.median(times)


def _nothing() -> None:
    """Wait for the device; work on a CPU is done when it returns."""


def table(name: str, found: Found, device: str) -> str:
    """Print times, the ratio of ours to each, and the bars."""
    case = CASES[name]
    bars = case.bars if device == "cpu" else case.gpu_bars
    heading = f"{name}, batches of {case.batch}"
    lines = [f"{heading:46}{'ms per step':>12}{'ours/this':>11}"]
    mine = found.median(OURS)
    for contender in contenders(case, device):
        if contender in found.left_out:
            lines.append(left_out(contender, found.left_out[contender]))
            continue
        theirs = found.median(contender)
        rounds = " ".join(f"{value:.3f}" for value in found.values[contender])
        given = (mine / theirs, bars.get(contender), f"({rounds})")
        lines.append(row(contender, f"{theirs:.3f}", *given))
    return "\n".join([*lines, FREED] if device == "cpu" else lines)
