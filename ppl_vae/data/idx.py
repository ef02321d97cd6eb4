"""The idx format of the MNIST files, plain or gzip-compressed.

A file is a magic number (two zero bytes, a type code, the number of dimensions), the dimensions as
big-endian 32-bit integers, then the elements, big-endian, in C order.
Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "File formats".

Files are not trusted: no more is read, or decompressed, than the header declares, and the header
must not declare more than a limit.
"""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT = 2**30
"""Default limit of the uncompressed size of a file, in bytes."""

MAX_DIMENSIONS = 8
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 2**20


def read_idx(path: Path, limit: int = LIMIT) -> npt.NDArray[Any]:
    """Return the array in an idx file, in the machine's byte order.

    Args:
        path: The file; gzip is recognised by its content, not by its name.
        limit: Largest number of bytes that the header may declare.

    Raises:
        ValueError: The file, which the message names, is truncated, corrupted, too long, or not
            an idx file.
        OSError: The file cannot be read.
    """
    with _open(path) as stream:
        try:
            return parse_idx(stream, str(path), limit)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} should be a whole gzip file, was damaged: {error}") from error


def parse_idx(stream: io.BufferedIOBase, name: str, limit: int = LIMIT) -> npt.NDArray[Any]:
    """Return the array in an uncompressed stream, called `name` in errors; see `read_idx`."""
    dtype, shape = _header(stream, name)
    n_bytes = math.prod(shape) * dtype.itemsize
    largest = (
        math.prod(size or 1 for size in shape) * dtype.itemsize
    )  # numpy limits empty arrays too
    if largest > limit:
        raise ValueError(
            f"{name} should declare at most {limit} bytes, declares {largest} for shape {shape}"
        )
    content = _read_at_most(n_bytes, stream)
    if len(content) < n_bytes:
        raise ValueError(
            f"{name} should have {n_bytes} bytes for shape {shape}, was truncated to {len(content)}"
        )
    # One more byte is enough to know, and makes gzip compare its checksum at the end.
    if stream.read(1):
        raise ValueError(f"{name} should end after {n_bytes} bytes for shape {shape}, is longer")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def unpack(path: Path, limit: int) -> tuple[bytes, str]:
    """Return the uncompressed content of a file as far as possible, and a description of any fault.

    Returns:
        At most `limit` bytes, and "" if they are the whole, undamaged content, else the fault.

    Raises:
        OSError: The file cannot be read.
    """
    content = bytearray()
    with _open(path) as stream:
        try:
            # In chunks: a read that fails returns none of the bytes before the damage.
            while chunk := stream.read(min(CHUNK, limit + 1 - len(content))):
                content += chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return bytes(content), f"damaged gzip: {error}"
    if len(content) > limit:
        return bytes(content[:limit]), f"longer than {limit} bytes"
    return bytes(content), ""


def _read_at_most(limit: int, stream: io.BufferedIOBase) -> bytearray:
    """Return the next `limit` bytes, or fewer at the end, in memory that grows as they are read."""
    content = bytearray()
    while chunk := stream.read(min(CHUNK, limit - len(content))):
        content += chunk
    return content


def _open(path: Path) -> io.BufferedIOBase:
    """Open a file's uncompressed bytes, whatever its name: some browsers unpack a .gz file."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _header(stream: io.BufferedIOBase, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and the shape that the magic number and the dimensions declare."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise ValueError(
            f"{name} should start with the magic number of an idx file, 00 00, a type, a number "
            f"of dimensions; was {magic.hex(' ') or 'empty'}"
        )
    if not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise ValueError(f"{name} should have 1..{MAX_DIMENSIONS} dimensions, declares {magic[3]}")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError(f"{name} should declare {magic[3]} dimensions, was truncated before them")
    return np.dtype(DTYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist())
