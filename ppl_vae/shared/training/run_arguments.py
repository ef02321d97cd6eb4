"""What `fit` of both backends refuses by its arguments alone, before it looks at data."""

from os import PathLike
from pathlib import Path
from typing import Any

from ppl_vae.shared.checks import check_flag, check_seed, check_whole


def check_run(*, epochs: Any, batch_size: Any, seed: Any, resume: Any, progress: Any) -> None:
    """Raises a ValueError unless the arguments of `fit` of these names are such."""
    check_whole("epochs", epochs, 1)
    check_whole("batch_size", batch_size, 1)
    check_seed(seed)
    check_flag("resume", resume)
    check_flag("progress", progress)


def folder_of(out: Any) -> Path | None:
    """The folder that is given as `out`, a path or None.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(out, str | PathLike | None):
        raise ValueError(f"out should be a path or None, was {out!r}")
    return None if out is None else Path(out)
