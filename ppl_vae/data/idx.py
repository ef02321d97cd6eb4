"""The idx format of the MNIST files, plain or gzip-compressed.

A file is a magic number (two zero bytes, a type code, the number of dimensions), the dimensions as
big-endian 32-bit integers, then the elements, big-endian, in C order.
Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "File formats".

Nothing here trusts a file: no more is read, or decompressed, than the header promises, and the
header may not promise more than a limit.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT = 2**30
"""The most bytes that a file may uncompress to, unless the caller says otherwise."""

MAX_DIMENSIONS = 8
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 2**20


def read_idx(path: Path, limit: int = LIMIT) -> npt.NDArray[Any]:
    """The array in an idx file, in the machine's byte order.

    Arguments:
        path: the file; gzip is recognised by its content, not by its name.
        limit: the most bytes that the header may promise.

    Raises:
        ValueError: the file is truncated, corrupted, too long, or no idx file; names it.
        OSError: the file cannot be read at all.
    """
    with _opened(path) as stream:
        try:
            return parse_idx(stream, str(path), limit)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} should be a whole gzip file, was damaged: {error}") from error


def parse_idx(stream: io.BufferedIOBase, name: str, limit: int = LIMIT) -> npt.NDArray[Any]:
    """The array in an uncompressed stream; `name` is what errors call it. See `read_idx`."""
    dtype, shape = _header(stream, name)
    promised = math.prod(shape) * dtype.itemsize
    largest = math.prod(size or 1 for size in shape) * dtype.itemsize  # numpy's limit, empty or not
    if largest > limit:
        raise ValueError(
            f"{name} should promise at most {limit} bytes, promises {largest} for shape {shape}"
        )
    content = _up_to(promised, stream)
    if len(content) < promised:
        raise ValueError(
            f"{name} should have {promised} bytes for shape {shape}, was truncated to "
            f"{len(content)}"
        )
    # One more byte only: enough to know, and it makes gzip compare its checksum at the end.
    if stream.read(1):
        raise ValueError(f"{name} should end after {promised} bytes for shape {shape}, went on")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def unpack(path: Path, limit: int) -> tuple[bytes, str]:
    """The uncompressed content of a file, as much as can be had, and what is wrong with it.

    Returns:
        At most `limit` bytes, and "" if they are the whole, undamaged content, else the fault.

    Raises:
        OSError: the file cannot be read at all.
    """
    content = bytearray()
    with _opened(path) as stream:
        try:
            # In pieces: a read that meets damage returns nothing of what came before it.
            while chunk := stream.read(min(CHUNK, limit + 1 - len(content))):
                content += chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return bytes(content), f"damaged gzip: {error}"
    if len(content) > limit:
        return bytes(content[:limit]), f"longer than {limit} bytes"
    return bytes(content), ""


def _up_to(most: int, stream: io.BufferedIOBase) -> bytearray:
    """The next `most` bytes, or what there is, in memory that grows with it and not before."""
    content = bytearray()
    while chunk := stream.read(min(CHUNK, most - len(content))):
        content += chunk
    return content


def _opened(path: Path) -> io.BufferedIOBase:
    """The file's uncompressed bytes, whatever its name says: some browsers unpack a .gz."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _header(stream: io.BufferedIOBase, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The type and the shape that the magic number and the dimensions promise."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise ValueError(
            f"{name} should start with the magic number of an idx file, 00 00, a type, a number "
            f"of dimensions; was {magic.hex(' ') or 'empty'}"
        )
    if not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise ValueError(f"{name} should have 1..{MAX_DIMENSIONS} dimensions, promises {magic[3]}")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError(f"{name} should promise {magic[3]} dimensions, was truncated before them")
    return np.dtype(DTYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist())
