"""Checkpoints of a run on disk, and the lock of its folder."""

import errno
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ppl_vae.shared.io import safetensors_file

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
DAMAGED = "checkpoint.damaged.safetensors"
LOCK = ".lock"
RENAMED = {"most": "max_steps"}
"""Settings of objectives that were renamed since earlier versions, by old name."""

_ABSENT = "absent"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run, sufficient to resume it.

    A folder holds the last two: if the newest is damaged, the run resumes from the one before.

    Attributes:
        run: Description of the run (model, objective, data, seed, ...), as JSON values.
        epoch: Number of completed epochs.
        arrays: Weights, optimizer and random states, under names chosen by the backend.
        extra: Further state of the backend, as JSON values.
        batch: Number of completed batches of epoch `epoch + 1`.
    """

    run: dict[str, Any]
    epoch: int
    arrays: dict[str, np.ndarray]
    extra: dict[str, Any]
    batch: int = 0

    def save(self, out: Path) -> None:
        """Write this as the folder's checkpoint, and keep the one before as the previous one.

        Raises:
            OSError: The file, which is named, could not be written. Existing files are kept.
        """
        text = {"run": self.run, "epoch": self.epoch, "batch": self.batch, "extra": self.extra}
        safetensors_file.write(out / CHECKPOINT, self.arrays, text, previous=out / PREVIOUS)

    @classmethod
    def find(cls, out: Path | None, run: Mapping[str, Any], epochs: int) -> Self | None:
        """Return the newest valid checkpoint of the folder, or None if there is none.

        A damaged one is renamed to "checkpoint.damaged.safetensors", and a warning is logged.

        Raises:
            ValueError: No folder was given, or all its checkpoints are damaged, or the checkpoint
                is of another run or of more epochs than `epochs`. The folder is left unchanged.
        """
        if out is None:
            raise ValueError("out should be the folder of the run to resume, was None")
        faults: list[Exception] = []
        for path in (out / CHECKPOINT, out / PREVIOUS):
            if not path.exists():
                continue
            try:
                found = cls._read(path)
            except (ValueError, OSError) as error:
                faults.append(error)
                continue
            found._check(path, run, epochs)
            if path.name == PREVIOUS:
                _go_back(out, found, faults)
            return found
        if faults:
            raise ValueError("; ".join(str(fault) for fault in faults)) from faults[0]
        return None

    @classmethod
    def _read(cls, path: Path) -> Self:
        arrays, text = safetensors_file.read(path)
        run, epoch, batch, extra = (text.get(key) for key in ("run", "epoch", "batch", "extra"))
        if not (isinstance(run, dict) and isinstance(extra, dict)):
            raise ValueError(
                f"out should hold the checkpoint of a run, {str(path)!r} is another file"
            )
        if not (type(epoch) is int and epoch >= 0 and type(batch) is int and batch >= 0):
            raise ValueError(
                f"out should hold the checkpoint of a run, {str(path)!r} is one after the epoch "
                f"{epoch!r} and the batch {batch!r}"
            )
        return cls(run, epoch, arrays, extra, batch)

    def _check(self, path: Path, run: Mapping[str, Any], epochs: int) -> None:
        """Check that the checkpoint is of this run, and not beyond its last epoch."""
        difference = _difference("", _with_present_names(self.run), run)
        if difference:
            raise ValueError(f"cannot resume {str(path)!r}: {difference}")
        begun = self.epoch + (self.batch > 0)
        if begun > epochs:
            raise ValueError(
                f"epochs should be at least the {begun} that the run of {str(path)!r} has "
                f"done, was {epochs}"
            )


def _go_back(out: Path, found: Checkpoint, faults: list[Exception]) -> None:
    """Warn that the run resumes from the previous checkpoint, and set a damaged newer one aside.

    Otherwise the next save would replace the valid checkpoint by the damaged one.
    """
    newest = out / CHECKPOINT
    why = str(faults[0]) if faults else f"{str(newest)!r} is missing"
    _log.warning(
        "%s. The run goes on from %r, after epoch %d", why, str(out / PREVIOUS), found.epoch
    )
    if faults:
        # Another process of the run may have renamed it already.
        with safetensors_file.named(newest), suppress(FileNotFoundError):
            newest.replace(out / DAMAGED)


def remove(out: Path | None) -> None:
    """Delete the checkpoints of a run that is replaced by another."""
    if out is None:
        return
    with safetensors_file.named(out):
        for name in (CHECKPOINT, PREVIOUS, DAMAGED):
            (out / name).unlink(missing_ok=True)


@contextmanager
def resuming(out: Path | None) -> Iterator[None]:
    """Turn any error about the content of a checkpoint in `out` into a ValueError."""
    try:
        yield
    except Exception as why:  # numpy, torch and jax raise many kinds
        raise ValueError(
            f"out should hold a checkpoint that its run can go on from, {str(out)!r} does not: "
            f"{type(why).__name__}, {why}"
        ) from why


def check_writable(out: Path) -> None:
    """Check that the folder `out` can be made and written to, without making it.

    Raises:
        ValueError: The folder cannot be made or written to.
    """
    try:
        there = next(path for path in (out, *out.parents) if path.exists())
    except OSError as error:
        raise _unwritable(out, error.strerror) from error
    if not there.is_dir():
        raise _unwritable(out, os.strerror(errno.ENOTDIR))
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = os.name == "posix" and bool(os.statvfs(there).f_flag & os.ST_RDONLY)
        raise _unwritable(out, os.strerror(errno.EROFS if read_only else errno.EACCES))


def _unwritable(out: Path, why: str | None) -> ValueError:
    return ValueError(f"out should be a folder that can be written to, was {str(out)!r} ({why})")


@contextmanager
def locked(out: Path | None) -> Iterator[None]:
    """Make the folder `out` if needed, and lock it for this run.

    The lock is an operating system lock on the file ".lock", which is released when the process
    ends. On Windows, and on network file systems without `flock`, a warning is logged and the
    folder is not locked.

    Raises:
        ValueError: Another run uses the folder, or it cannot be written to.
    """
    if out is None:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("ab")
    except OSError as error:
        raise _unwritable(out, error.strerror) from error
    with file:
        _take(file.fileno(), out)
        yield


def _take(descriptor: int, out: Path) -> None:
    """Lock an open file, or log why it cannot be locked."""
    if sys.platform == "win32":
        _log.warning("%r is not locked, on Windows: let no other run have it", str(out))
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ValueError(
                f"out should be a folder that no other run is using, {str(out)!r} is in use"
            ) from error
        _log.warning("%r is not locked (%s): let no other run have it", str(out), error.strerror)


def _with_present_names(value: Any) -> Any:
    """Return a description with the current names of renamed settings."""
    if not isinstance(value, Mapping):
        return value
    return {RENAMED.get(name, name): _with_present_names(part) for name, part in value.items()}


def _difference(name: str, was: Any, now: Any) -> str:
    """Describe the first difference between two descriptions; "" if there is none."""
    if was == now:
        return ""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return f"{name} was {was!r} when the run started and is now {now!r}"
    key = next(key for key in {**now, **was} if was.get(key, _ABSENT) != now.get(key, _ABSENT))
    path = f"{name}.{key}" if name else key
    return _difference(path, was.get(key, _ABSENT), now.get(key, _ABSENT))


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names start with `prefix` and a dot, without these."""
    start = f"{prefix}."
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}
