"""Peak memory of a training step, compiled against eager: `speed.py --cases memory-vae-500`, ...

Weights, Adam's state and, for a compiled step, the memory held by the compiler are there before:
measured is how far a step, gradients included, goes above that. On a CPU
it is the resident memory at its highest (VmHWM of Linux, set back after the first steps), on a GPU
what torch has allocated.
"""

import ctypes
import gc
from pathlib import Path

import torch
from contenders import CONTENDERS, OURS, OURS_EAGER, Step
from processes import Found, LeftOut, left_out, row
from speed_cases import CASES as TRAINED
from speed_cases import EAGER, device_of
from torch import nn

BAR, STEPS = 1.0, 20
CASES = {f"memory-{name}": TRAINED[name] for name in ("vae-500", "iwae-50", "m2", "ladder", "sbn")}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def contenders_of(name: str, device: str) -> list[str]:
    return [OURS, OURS_EAGER, EAGER]


def measure(name: str, contender: str, seconds: float, device: str) -> dict[str, float]:
    """Measure the peak of a step above the memory held before, and the total peak, in megabytes."""
    torch.manual_seed(0)
    step = CONTENDERS[contender](CASES[name], device_of(device))
    for _ in range(3):
        step()
    forget_gradients()
    return on_a_gpu(step) if device == "cuda" else on_a_cpu(step)


def forget_gradients() -> None:
    """Free the gradients, which eager steps keep until the next one and compiled steps do not."""
    for found in gc.get_objects():
        if type(found) is nn.Parameter:
            found.grad = None


def on_a_cpu(step: Step) -> dict[str, float]:
    """Return the peak memory of steps after freed memory was returned to the system."""
    if not RESET.exists():
        raise LeftOut("the peak of resident memory can be set back on Linux alone")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    RESET.write_text("5")  # see proc(5): the peak is now what is resident
    for _ in range(STEPS):
        step()
    peak = resident("VmHWM")
    return {"step": peak - before, "all": peak}


def on_a_gpu(step: Step) -> dict[str, float]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return {"step": (peak - before) / 2**20, "all": peak / 2**20}


def resident(entry: str) -> float:
    """Return an entry of the process's status in megabytes."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(entry)]
    return int(line.split()[1]) / 2**10


def table(name: str, found: Found, device: str) -> str:
    """Print the peaks, and the ratio of the compiled step's peak to each."""
    lines = [f"{name:46}{'MB of a step':>12}{'ours/this':>11}"]
    for contender in contenders_of(name, device):
        if contender in found.left_out:
            lines.append(left_out(contender, found.left_out[contender]))
            continue
        mine, theirs = found.median(OURS, "step"), found.median(contender, "step")
        bar = BAR if contender == OURS_EAGER else None
        more = f"(the process {found.median(contender, 'all'):.0f} MB)"
        lines.append(row(contender, f"{theirs:.1f}", mine / theirs, bar, more))
    return "\n".join(lines)
