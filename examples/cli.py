"""Command line, error messages and output files, common to all scripts."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import tyro
from matplotlib.figure import Figure

from ppl_vae.shared.training.checkpoints import check_writable

T = TypeVar("T")


def run(main: Callable[[T], None], defaults: Mapping[str, T], description: str | None) -> None:
    """Run a script with the flags of the command line.

    Errors that the user can fix are printed in one line, with exit status 2.

    Args:
        main: Called with the flags.
        defaults: Default flags for each value of --data.
        description: Description of the script for `--help`.
    """
    try:
        flags = parse(defaults, description)
        check(flags)
        main(flags)
    except (ValueError, OSError, ImportError) as error:
        refuse(str(error))
    except (MemoryError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        if not (isinstance(error, MemoryError) or re.search("allocat|out of memory", why, re.I)):
            raise
        refuse(f"flags should ask for less memory ({why[:200]})")


def refuse(why: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: error: {why}", file=sys.stderr)
    sys.exit(2)


def parse(defaults: Mapping[str, T], description: str | None) -> T:
    """Return the flags, with the defaults that --data selects."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--data", default=next(iter(defaults)))
    data = first.parse_known_args()[0].data
    default = defaults.get(data, next(iter(defaults.values())))
    return tyro.cli(type(default), default=default, description=description)


def check(flags: Any) -> None:
    """Check the flags that all scripts have, before data are loaded and anything is trained."""
    check_writable(flags.out)
    for flag, value in vars(flags).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{flag} should be a finite number, was {number}")
            if isinstance(number, int) and abs(number) >= 2**31:
                raise ValueError(f"{flag} should be below 2**31, was {number}")


def finish(out: Path, table: str, figures: Mapping[str, Figure], models: Mapping[str, Any]) -> None:
    """Print the table, and write table, pictures and models to `out`; list the files.

    With several processes (`torchrun`), only the first one does so.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "table.txt"]
    paths[0].write_text(table + "\n")
    for name, figure in figures.items():
        paths.append(out / f"{file_name(name)}.png")
        figure.savefig(paths[-1], dpi=150)
    for name, model in models.items():
        paths.append(out / f"{file_name(name)}.safetensors")
        model.save(paths[-1])
    print("", table, "", *paths, sep="\n")


def file_name(name: str) -> str:
    """Return the name of a model without characters that are special to shells."""
    return re.sub(r"[^\w+.-]+", "_", name)


def mean_and_error(values: Sequence[float]) -> str:
    """Return mean ± standard error of the mean, as text."""
    mean = f"{np.mean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}"
