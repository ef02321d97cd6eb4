"""The state of a run on the disk: saved so that it can always go on, found again, locked."""

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
"""Settings of objectives that earlier versions wrote under other names."""

_ABSENT = "absent"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on.

    A folder holds the last two: if the newest is damaged, the run goes on from the one before.

    Attributes:
        run: What makes it this run (model, objective, data, seed, ...), as JSON values.
        epoch: Number of epochs done.
        arrays: Weights, optimizer and random states, under names of the backend's choice.
        extra: Further state of the backend, as JSON values.
        batch: Number of batches done in epoch `epoch + 1`.
    """

    run: dict[str, Any]
    epoch: int
    arrays: dict[str, np.ndarray]
    extra: dict[str, Any]
    batch: int = 0

    def save(self, out: Path) -> None:
        """Makes this the folder's checkpoint, and the one that was there the previous one.

        Raises:
            OSError: it could not be written; names the file. Those that were there stay.
        """
        text = {"run": self.run, "epoch": self.epoch, "batch": self.batch, "extra": self.extra}
        safetensors_file.write(out / CHECKPOINT, self.arrays, text, previous=out / PREVIOUS)

    @classmethod
    def find(cls, out: Path | None, run: Mapping[str, Any], epochs: int) -> Self | None:
        """The newest good checkpoint of the folder, or None if there is none yet.

        A damaged one is set aside as "checkpoint.damaged.safetensors", and a warning is logged.

        Raises:
            ValueError: no folder was given, or no checkpoint in it is good, or the checkpoint is
                of another run or of more epochs than `epochs`. The folder is left as it is.
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
        """That it is of this run, and not behind its end."""
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
    """Says that the previous checkpoint is the newest good one, and takes the bad one away.

    Left where it is, the damaged one would take the place of the good one at the next save.
    """
    newest = out / CHECKPOINT
    why = str(faults[0]) if faults else f"{str(newest)!r} is missing"
    _log.warning(
        "%s. The run goes on from %r, after epoch %d", why, str(out / PREVIOUS), found.epoch
    )
    if faults:
        with (
            safetensors_file.named(newest),
            suppress(FileNotFoundError),
        ):  # another process of the run did it
            newest.replace(out / DAMAGED)


def remove(out: Path | None) -> None:
    """Takes away the checkpoints of a run that another replaces."""
    if out is None:
        return
    with safetensors_file.named(out):
        for name in (CHECKPOINT, PREVIOUS, DAMAGED):
            (out / name).unlink(missing_ok=True)


@contextmanager
def resuming(out: Path | None) -> Iterator[None]:
    """A checkpoint in `out` that lacks something, or has it in another form, is a ValueError."""
    try:
        yield
    except Exception as why:  # whatever its arrays made numpy, torch or jax say
        raise ValueError(
            f"out should hold a checkpoint that its run can go on from, {str(out)!r} does not: "
            f"{type(why).__name__}, {why}"
        ) from why


def check_writable(out: Path) -> None:
    """Raises the ValueError of `locked` if the folder `out` cannot be made or written to.

    Nothing is made, so that it can be asked long before there is a run.
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
    """The folder `out`, made if need be, belongs to this run alone.

    It is a lock of the operating system on the file ".lock", which a killed process loses. Where
    there is none a warning is logged, and nothing keeps two runs apart: on Windows, and on network
    file systems without `flock`.

    Raises:
        ValueError: another run has the folder, or it cannot be written to.
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
    """Locks an open file, or says why it cannot be."""
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
    """A description from a file, with the present names of settings that were renamed."""
    if not isinstance(value, Mapping):
        return value
    return {RENAMED.get(name, name): _with_present_names(part) for name, part in value.items()}


def _difference(name: str, was: Any, now: Any) -> str:
    """The first thing in which two descriptions differ, by its path; "" if there is none."""
    if was == now:
        return ""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return f"{name} was {was!r} when the run started and is now {now!r}"
    key = next(key for key in {**now, **was} if was.get(key, _ABSENT) != now.get(key, _ABSENT))
    path = f"{name}.{key}" if name else key
    return _difference(path, was.get(key, _ABSENT), now.get(key, _ABSENT))


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts with `prefix` and a dot, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}
