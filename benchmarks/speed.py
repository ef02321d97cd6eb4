"""Speed and memory of training steps: this library, compiled and eager, against others.

Each contender runs in a process of its own, in turn, for several rounds; figures are medians over
rounds, and ratios are of one run of this script. All train the same networks in single precision on
random images: the time does not depend on them. A bar is the largest acceptable ratio.

Cases "vae-64", ... compare steps; "fit-200", ... an epoch of `fit` with its steps alone;
"memory-vae-500", ... the peak memory of a step. pythae and Pixyz take part where they are
installed.
"""

from types import ModuleType

import fit_epoch
import growth as growth_of
import step_memory
import steps
import torch
import tyro
from processes import LEFT_OUT, Found, LeftOut, in_turn, report
from speed_cases import device_of

PARTS = (steps, fit_epoch, step_memory)
NAMES = tuple(name for part in PARTS for name in part.CASES)


def part_of(name: str) -> ModuleType:
    """Return the module with the case of that name."""
    for part in (*PARTS, growth_of):
        if name in part.CASES:
            return part
    raise SystemExit(f"cases should be of {', '.join((*NAMES, *growth_of.CASES))}, was {name!r}")


def run(name: str, contender: str, seconds: float, device: str) -> None:
    """Run one contender in this process, and print its report as JSON."""
    try:
        report(part_of(name).measure(name, contender, seconds, device))
    except LeftOut as reason:
        report({LEFT_OUT: str(reason)})


def compare(name: str, rounds: int, seconds: float, device: str) -> Found:
    """Run all contenders of a case, and print their table."""
    part = part_of(name)
    flags = {"cases": name, "seconds": seconds, "device": device}
    found = in_turn(__file__, part.contenders_of(name, device), rounds, flags)
    print(part.table(name, found, device), flush=True)
    return found


def main(
    cases: tuple[str, ...] = (),
    contender: str = "",
    rounds: int = 3,
    seconds: float = 3.0,
    device: str = "cpu",
    growth: bool = False,
) -> None:
    """Compare all contenders.

    Args:
        cases: Names of cases; by default all.
        contender: Contender to run alone, on one case, printing its report as JSON.
        rounds: Processes per contender.
        seconds: Measuring time of each process.
        device: cpu or cuda.
        growth: Measure how the time grows with batch, K, width and depth instead, and draw it.
    """
    names = cases or (tuple(growth_of.CASES) if growth else NAMES)
    for name in names:
        part_of(name)
    where = device_of(device)
    if contender:
        run(names[0], contender, seconds, device)
        return
    place = torch.cuda.get_device_name(where) if device == "cuda" else "CPU"
    print(f"{place}, {torch.get_num_threads()} threads, {rounds} rounds of {seconds} s each")
    found = {}
    for name in names:
        print()
        found[name] = compare(name, rounds, seconds, device)
    if growth:
        growth_of.write(found, device)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
