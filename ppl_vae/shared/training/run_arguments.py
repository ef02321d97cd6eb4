"""Checks of the arguments of `fit` that need no data, for both backends."""

from os import PathLike
from pathlib import Path
from typing import Any

from ppl_vae.shared.checks import check_flag, check_seed, check_whole


def check_run(*, epochs: Any, batch_size: Any, seed: Any, resume: Any, progress: Any) -> None:
    """Check arguments of `fit`, which have these names."""
    check_whole("epochs", epochs, 1)
    check_whole("batch_size", batch_size, 1)
    check_seed(seed)
    check_flag("resume", resume)
    check_flag("progress", progress)


def folder_of(out: Any) -> Path | None:
    """Return the folder given as `out`.

    Raises:
        ValueError: `out` is neither a path nor None.
    """
    if not isinstance(out, str | PathLike | None):
        raise ValueError(f"out should be a path or None, was {out!r}")
    return None if out is None else Path(out)
