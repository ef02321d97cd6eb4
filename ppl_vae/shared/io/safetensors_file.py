"""Safetensors files of arrays and one JSON text: written atomically, validated when read.

Nothing in a file is executed, imported or unpickled. A file is read only if its header has the
stated size and exactly the expected entries, and the SHA-256 of all arrays and the text agrees. The
checksum detects damage, not forgery.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ppl_vae.shared.io.json_text import parse, parse_text

_TEXT, _SUM = "ppl_vae", "sha256"
MAX_HEADER = 2**21
"""Maximum size of a header in bytes: names, types and shapes of arrays, and the text."""


def write(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    text: Mapping[str, Any],
    *,
    previous: Path | None = None,
) -> None:
    """Write `arrays` and, as JSON in the file's header, `text`.

    The write is atomic: a process killed at any time leaves either the old file or the new one.

    Args:
        path: The file; its folder is made if needed.
        arrays: The arrays by name.
        text: JSON values.
        previous: New path of an existing file; by default it is replaced.

    Raises:
        ValueError: The arrays or the text could not be read again.
        OSError: The file, which is named, could not be written. An existing file is kept.
    """
    contiguous = {name: _in_file_order(array) for name, array in arrays.items()}
    encoded = json.dumps(text)
    parse_text(encoded)
    about = {_TEXT: encoded, _SUM: _checksum(contiguous, encoded)}
    content = save(contiguous, metadata=about)
    if _header_size(content[:8]) > MAX_HEADER:
        raise ValueError(
            f"arrays and text should have a header of at most {MAX_HEADER} bytes, "
            f"had {_header_size(content[:8])}"
        )
    replace(path, content, previous=previous)


def replace(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write `content` to disk, and then move it to `path`. See `write`."""
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        moved = False
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
                moved = True
            unfinished.replace(path)
        except BaseException:
            if moved and previous is not None and not path.exists():
                previous.replace(path)
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _in_file_order(array: np.ndarray) -> np.ndarray:
    """Return the array in C order and little-endian."""
    given = np.asarray(array, order="C")
    return given.astype(given.dtype.newbyteorder("<"), copy=False)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the name of the file to an OSError on writing."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(
            error.errno, f"{str(path)!r} could not be written ({why}); what was there stays"
        ) from error


@contextmanager
def of_a_model(path: Path) -> Iterator[None]:
    """Add the name of the file to a ValueError about the model in it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"path should be the file of a model, {str(path)!r} is not: {error}"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk; not possible, or needed, on Windows."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the text of a file from `write`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The path is not a regular file, or the file is damaged or was not written by
            `write`.
        OSError: The file cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"path should be a file, was {str(path)!r}, which does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"path should be a file, was {str(path)!r}, which is {kind}")
    try:
        with path.open("rb") as file:
            return _read(file)
    except (SafetensorError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ValueError(
            f"path should be a whole file written by ppl_vae, was {str(path)!r} ({error})"
        ) from error


def _read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    size, start = os.fstat(file.fileno()).st_size, file.read(8)
    if len(start) < 8 or 8 + _header_size(start) > size:
        raise ValueError(f"it ends before its header does, after {size} bytes")
    if _header_size(start) > MAX_HEADER:
        raise ValueError(f"its header has {_header_size(start)} bytes, more than {MAX_HEADER}")
    header = parse(file.read(_header_size(start)).decode())
    about = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(about, dict) or set(about) != {_TEXT, _SUM}:
        raise ValueError("its header has no text and checksum of ppl_vae")
    file.seek(0)
    arrays = load(file.read())  # checks types, shapes and offsets against the file's size
    if about[_SUM] != _checksum(arrays, about[_TEXT]):
        raise ValueError("its content does not have the checksum it was written with")
    return arrays, parse_text(about[_TEXT])


def _header_size(start: bytes) -> int:
    """Return the stated size of the header, the first 8 bytes of a file."""
    return int.from_bytes(start, "little")


def _checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """Return the SHA-256 of the text and of the arrays' names, types, shapes and bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(repr((name, array.dtype.str, array.shape)).encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
