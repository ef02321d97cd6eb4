"""MNIST, from four idx files in the user's folders, or downloaded once."""

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
"""Number of validation images, the last of the training file."""


class IdxFile(NamedTuple):
    """One of the four files, with MD5 sum and size in bytes of its uncompressed content.

    Archives of the same content differ (time stamps, compression level), and so do their sums.
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
    """Return handwritten digits of 28x28 pixels: 50 000 train, 10 000 validation, 10 000 test.

    Validation images are the last 10 000 of the 60 000 of the training file. The files, plain or
    `.gz`, are searched for in `folder`, then in the folder named by the environment variable
    PPL_VAE_DATA, each with its subfolder `mnist`, then in the user's cache. Missing files are
    downloaded into the cache. All content is verified by its MD5 sum before use.

    Args:
        binarisation: "dynamic", "threshold" or "none"; see `ppl_vae.data.images.binarise`.
        folder: First folder to search.

    Raises:
        ValueError: `binarisation` has another value, a folder does not exist, or a file has the
            wrong content.
        FileNotFoundError: A file is missing, and no mirror delivered it.

    References:
        LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition",
        1998. The parts are those of Larochelle & Murray, 2011, and Burda et al., 2016.
    """
    check_binarisation(binarisation)  # before any download
    folders = list(_folders(folder))
    arrays = {part: _load(file, folders) for part, file in FILES.items()}
    rest = _images(arrays["train images"], arrays["train labels"])
    test = _images(arrays["test images"], arrays["test labels"])
    train, validation = rest[:-N_VALIDATION], rest[-N_VALIDATION:]
    return binarise_splits(Splits(train, validation, test), binarisation)


def cache_folder() -> Path:
    """Return the folder of downloaded files."""
    import pooch

    return Path(pooch.os_cache("ppl_vae")) / "mnist"


def _images(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Images:
    """Return images with grey levels in [0, 1] from bytes of shape (n, rows, columns)."""
    n, rows, columns = pixels.shape
    x = pixels.reshape(n, rows * columns).astype(np.float32) / np.float32(255)
    return Images(x, labels.astype(np.int64), (rows, columns), 10, "mnist", "none")


def _folders(folder: Path | None) -> Iterator[Path]:
    """Yield the folders to search, in order."""
    named = {"folder": folder, "PPL_VAE_DATA": os.environ.get("PPL_VAE_DATA")}
    for argument, value in named.items():
        if value:
            if not Path(value).is_dir():
                raise ValueError(f"{argument} should be an existing folder, was {value}")
            yield from (Path(value), Path(value) / "mnist")
    yield cache_folder()


def _load(file: IdxFile, folders: list[Path]) -> npt.NDArray[Any]:
    """Return the verified content of a file, from the first folder that has it or from a mirror."""
    paths = (folder / name for folder in folders for name in (file.name, file.name + ".gz"))
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return _parse(_download_from_mirrors(file), file)
    try:
        return _parse(path, file)
    except ValueError as error:
        raise ValueError(
            f"{error}. Delete it, and it is downloaded again, or put {file.name}.gz from "
            f"{MIRRORS[0]} in its place"
        ) from error


def _parse(path: Path, file: IdxFile) -> npt.NDArray[Any]:
    """Return the array in a file whose content has the right sum; raise a ValueError otherwise."""
    content, fault = unpack(path, limit=file.size)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != file.md5 or fault:
        raise ValueError(
            f"{path} should uncompress to {file.size} bytes with MD5 {file.md5}, "
            f"was {len(content)} bytes with MD5 {md5}" + (f" ({fault})" if fault else "")
        )
    return parse_idx(io.BytesIO(content), str(path))


def _download_from_mirrors(file: IdxFile) -> Path:
    """Return the cached file, from the first mirror that delivers the right content."""
    cache = cache_folder()
    faults = []
    for mirror in MIRRORS:
        url = f"{mirror}{file.name}.gz"
        try:
            return _download(url, file, cache)
        except (OSError, ValueError) as error:
            faults.append(f"  {url}: {error}")
    raise FileNotFoundError(
        f"MNIST's {file.name} was not found and could not be downloaded:\n"
        + "\n".join(faults)
        + f"\nPut {', '.join(f.name + '.gz' for f in FILES.values())} into a folder and set "
        f"PPL_VAE_DATA to it, or into {cache}"
    )


def _download(url: str, file: IdxFile, cache: Path) -> Path:
    """Download a file to a temporary folder, verify it, and move it to the cache.

    A bad or interrupted download leaves nothing that could be taken for the file.
    """
    import pooch

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
        path = Path(temporary) / f"{file.name}.gz"
        pooch.HTTPDownloader(progressbar=True)(url, str(path), None)
        _parse(path, file)
        return path.replace(cache / path.name)
