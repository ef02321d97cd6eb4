"""What the tests of the examples share; the fixtures that run scripts are in conftest.py."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Done:
    """What a run printed, and its exit status."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]
"""Runs a script with the flags that it is given."""


def help_of(script: str, *flags: str) -> str:
    """What `--help` says after these flags, in a fresh process where warnings are errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *flags, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def refused(done: Done, message: str) -> None:
    """The run ended with that message, and not with a traceback."""
    assert done.status == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err


def trained_nothing(again: Done, before: Done) -> None:
    """The resumed run found all that the run before it made."""
    assert again.out == before.out  # the times too
    assert "epoch" not in again.err


def drawn(done: Done, folder: Path, names: Iterable[str]) -> None:
    """The pictures of these names are in the folder, and the run says so."""
    for name in names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert str(folder / name) in done.out
