"""MNIST, from the four idx files: found where the user keeps data, else downloaded once."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ppl_vae.data.idx import parse_idx, unpack
from ppl_vae.data.images import Binarisation, Images, Splits, binarise_splits, check_binarisation

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
N_VALIDATION = 10_000
"""The last of the training file."""


class IdxFile(NamedTuple):
    """One of the four files: its MD5 sum and its size in bytes, both of the uncompressed content.

    Archives of the same content differ (time stamps, compression level), so their sums say little.
    """

    name: str
    md5: str
    size: int


FILES = {
    "train images": IdxFile(
        "train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 47_040_016
    ),
    "train labels": IdxFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 60_008),
    "test images": IdxFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 7_840_016),
    "test labels": IdxFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 10_008),
}


def mnist(binarisation: Binarisation = "dynamic", folder: Path | None = None) -> Splits:
    """Handwritten digits, 28x28: 50 000 train, 10 000 validation (the last of 60 000), 10 000 test.

    The files, plain or `.gz`, are looked for in `folder`, then in the folder that the environment
    variable PPL_VAE_DATA names, then in the user's cache, in each also under `mnist/`. What is
    missing is downloaded into the cache. All content is verified by its MD5 sum before it is used.

    Arguments:
        binarisation: "dynamic", "threshold" or "none"; see `ppl_vae.data.images.binarise`.
        folder: where to look first.

    Raises:
        ValueError: `binarisation` is none of these, a folder does not exist, or a file that was
            found has other content than it should.
        FileNotFoundError: a file is nowhere, and no mirror delivered it.

    References:
        LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition",
        1998. The parts are those of Larochelle & Murray, 2011, and Burda et al., 2016.
    """
    check_binarisation(binarisation)  # before anything is downloaded
    folders = list(_folders(folder))
    arrays = {part: _load(file, folders) for part, file in FILES.items()}
    rest = _images(arrays["train images"], arrays["train labels"])
    test = _images(arrays["test images"], arrays["test labels"])
    train, validation = rest[:-N_VALIDATION], rest[-N_VALIDATION:]
    return binarise_splits(Splits(train, validation, test), binarisation)


def cache_folder() -> Path:
    """Where downloaded files stay."""
    import pooch

    return Path(pooch.os_cache("ppl_vae")) / "mnist"


def _images(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Images:
    """Grey levels in [0, 1] from bytes of shape (n, rows, columns)."""
    n, rows, columns = pixels.shape
    x = pixels.reshape(n, rows * columns).astype(np.float32) / np.float32(255)
    return Images(x, labels.astype(np.int64), (rows, columns), 10, "mnist", "none")


def _folders(folder: Path | None) -> Iterator[Path]:
    """Where to look, in order."""
    named = {"folder": folder, "PPL_VAE_DATA": os.environ.get("PPL_VAE_DATA")}
    for argument, value in named.items():
        if value:
            if not Path(value).is_dir():
                raise ValueError(f"{argument} should be an existing folder, was {value}")
            yield from (Path(value), Path(value) / "mnist")
    yield cache_folder()


def _load(file: IdxFile, folders: list[Path]) -> npt.NDArray[Any]:
    """The verified content of one file, from the first folder that has it, else from a mirror."""
    paths = (folder / name for folder in folders for name in (file.name, file.name + ".gz"))
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return _parsed(_downloaded(file), file)
    try:
        return _parsed(path, file)
    except ValueError as error:
        raise ValueError(
            f"{error}. Delete it, and it is downloaded again, or put {file.name}.gz from "
            f"{MIRRORS[0]} in its place"
        ) from error


def _parsed(path: Path, file: IdxFile) -> npt.NDArray[Any]:
    """The array in a file whose content has the right sum; else a ValueError."""
    content, fault = unpack(path, limit=file.size)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != file.md5 or fault:
        raise ValueError(
            f"{path} should uncompress to {file.size} bytes with MD5 {file.md5}, "
            f"was {len(content)} bytes with MD5 {found}" + (f" ({fault})" if fault else "")
        )
    return parse_idx(io.BytesIO(content), str(path))


def _downloaded(file: IdxFile) -> Path:
    """The file in the cache, from the first mirror that delivers the right content."""
    cache = cache_folder()
    faults = []
    for mirror in MIRRORS:
        url = f"{mirror}{file.name}.gz"
        try:
            return _fetched(url, file, cache)
        except (OSError, ValueError) as error:
            faults.append(f"  {url}: {error}")
    raise FileNotFoundError(
        f"MNIST's {file.name} was not found and could not be downloaded:\n"
        + "\n".join(faults)
        + f"\nPut {', '.join(f.name + '.gz' for f in FILES.values())} into a folder and set "
        f"PPL_VAE_DATA to it, or into {cache}"
    )


def _fetched(url: str, file: IdxFile, cache: Path) -> Path:
    """Downloads a file, verifies it, and only then gives it the name that is looked for.

    A download that is bad or broken off leaves nothing that could be taken for the file.
    """
    import pooch

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as part:
        path = Path(part) / f"{file.name}.gz"
        pooch.HTTPDownloader(progressbar=True)(url, str(path), None)
        _parsed(path, file)
        return path.replace(cache / path.name)
