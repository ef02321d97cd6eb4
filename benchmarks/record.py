"""Run a command and record its output with date, machine and commit.

    python benchmarks/record.py NAME COMMAND...

writes benchmarks/results/NAME.md. Progress (standard error) is shown but not recorded. The front
matter of an existing file, from which `docs/tables.py` makes the tables of results, is kept: check
that its numbers are still those of the output. That of a new file is written by hand:

    ---
    - group: Density
      experiment: VAE, dynamic MNIST, log p(x) (k = 5000), 60 epochs
      result: -92.10 ± 0.83
      paper: -86.76
    ---
"""

import datetime
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "numpy")


def main(name: str, command: list[str]) -> int:
    start = time.perf_counter()
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    print(run.stdout, end="")
    if run.returncode == 0:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.md"
        path.write_text(front_matter(path) + report(name, command, run.stdout, seconds))
        print(f"recorded in {path}")
    return run.returncode


def front_matter(path: Path) -> str:
    """Return the lines of an existing file up to the second `---`, or nothing."""
    text = path.read_text() if path.exists() else ""
    if not text.startswith("---\n"):
        return ""
    return "---\n" + text.split("---\n")[1] + "---\n\n"


def report(name: str, command: list[str], printed: str, seconds: float) -> str:
    facts = {
        "command": f"`{shown(command)}`",
        "date": datetime.date.today().isoformat(),
        "time": f"{seconds:.0f} s",
        "commit": commit(),
        "machine": machine(),
        "versions": ", ".join(f"{package} {installed(package)}" for package in PACKAGES),
    }
    lines = [f"# {name}", "", *(f"- {key}: {value}" for key, value in facts.items())]
    return "\n".join([*lines, "", "```", printed.strip(), "```", ""])


def shown(command: list[str]) -> str:
    """Return the command as a reader would type it: `python`, and the setting of threads."""
    names = ("OMP_NUM_THREADS",)
    settings = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    words = ["python" if Path(word).name.startswith("python") else word for word in command]
    return " ".join([*settings, shlex.join(words)])


def commit() -> str:
    """Return the commit, and whether the tree differed from it (results aside)."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=RESULTS.parent
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", ":/ppl_vae", ":/examples", ":/benchmarks/*.py")
    return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].split(":")[1].strip() if names else model
    return (
        f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {sys.version.split()[0]}"
    )


def installed(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "(not installed)"


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
