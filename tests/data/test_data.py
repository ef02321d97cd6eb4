"""`ppl_vae.data`: pixels, splits, labels, the idx format, and MNIST found, fetched and refused."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ppl_vae.data import Dynamic, Images, digits, hide_labels, mnist
from ppl_vae.data.idx import parse_idx, read_idx, unpack
from ppl_vae.data.images import Binarisation, binarise

# The function `mnist` stands before its module in the package.
home: Any = importlib.import_module("ppl_vae.data.mnist")
Array = npt.NDArray[Any]
RNG = np.random.default_rng(1)
GREY = RNG.random((30, 6), dtype=np.float32)
LABELS = np.arange(30) % 3


def images(x: Array | Dynamic = GREY, y: Array = LABELS, shape: tuple[int, int] = (2, 3)) -> Images:
    return Images(x, y, shape, n_classes=3, name="fake", binarisation="none")


def pixels(part: Images) -> npt.NDArray[np.float32]:
    assert isinstance(part.x, np.ndarray)
    return part.x


def test_import_is_light() -> None:
    heavy = "{'torch', 'jax', 'sklearn', 'scipy', 'pooch', 'requests', 'pyro'}"
    code = f"import sys, ppl_vae.data; sys.exit({heavy} & set(sys.modules) or None)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Pixels


def test_dynamic_draws_each_pixel_with_its_probability() -> None:
    grey = Dynamic(np.tile(np.array([[0.0, 0.2, 0.7, 1.0]], dtype=np.float32), (20_000, 1)))
    x = grey.sample(seed=3)
    assert x.dtype == np.float32
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_allclose(x.mean(0), [0, 0.2, 0.7, 1], atol=0.015)  # 4 standard errors
    assert x[:, 0].max() == 0
    assert x[:, 3].min() == 1


def test_dynamic_sample_depends_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(Dynamic(GREY).sample(1), Dynamic(GREY).sample(1))
    assert (Dynamic(GREY).sample(1) != Dynamic(GREY).sample(2)).any()


def test_dynamic_selects_images() -> None:
    grey = Dynamic(np.array(GREY, dtype="f8"))
    assert (len(grey), grey.shape, grey.probs.dtype.name) == (30, (30, 6), "float32")
    np.testing.assert_array_equal(grey[LABELS == 1].probs, GREY[1::3])
    np.testing.assert_array_equal(grey[2:4].probs, GREY[2:4])
    with pytest.raises(ValueError, match="probs should be floating"):
        grey[3]  # type: ignore[index]


BAD_PIXELS = {
    "should be floating of shape .n, d., was int64": np.ones((2, 6), dtype=np.int64),
    "should be floating of shape .n, d., was float32 of shape .6,": GREY[0],
    r"should be in \[0, 1\], was in \[0.0, 1.5\]": np.array([[0, 0.5, 1, 1, 1, 1.5]]),
    r"should be in \[0, 1\], was in \[-0.5, 1.0\]": np.array([[0, -0.5, 1, 1, 1, 1]]),
    r"should be in \[0, 1\], had 2 NaN": np.array([[0, np.nan, 1, 1, 1, np.nan]]),
}


@pytest.mark.parametrize("message", BAD_PIXELS)
def test_pixels_must_be_grey_levels(message: str) -> None:
    x = BAD_PIXELS[message]
    with pytest.raises(ValueError, match="probs " + message):
        Dynamic(x)
    with pytest.raises(ValueError, match="x " + message):
        images(x, LABELS[: len(x)])
    with pytest.raises(ValueError, match="x " + message):
        binarise(x, "none")


def test_binarise_does_what_the_name_says() -> None:
    dynamic = binarise(GREY, "dynamic")
    assert isinstance(dynamic, Dynamic)
    np.testing.assert_array_equal(dynamic.probs, GREY)
    edge = np.array([[0.49, 0.5, 0.51]], dtype=np.float32)
    threshold = binarise(edge, "threshold")
    np.testing.assert_array_equal(threshold, np.array([[0, 0, 1]]))
    assert binarise(GREY, "none") is GREY


@pytest.mark.parametrize("function", [partial(binarise, GREY), digits, mnist])
def test_binarisation_must_have_a_known_name(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="dynamic, threshold or none, was 'bernoulli'"):
        function(binarisation="bernoulli")


# Images and splits


def test_images_keep_pixels_and_labels_together() -> None:
    part = images()[np.array([4, 0])]
    np.testing.assert_array_equal(pixels(part), GREY[[4, 0]])
    np.testing.assert_array_equal(part.y, [1, 0])
    assert (len(part), part.image_shape, part.n_classes) == (2, (2, 3), 3)
    assert isinstance(images(Dynamic(GREY))[:3].x, Dynamic)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": LABELS[:-1]}, r"y should be int64 of shape \(30,\), was int64 of shape \(29,\)"),
        ({"y": LABELS.astype(np.int32)}, "y should be int64"),
        ({"y": LABELS + 1}, "y should be in 0..2, or -1 for unlabelled, was in 1..3"),
        ({"y": LABELS - 2}, "was in -2..0"),
        ({"shape": (3, 3)}, "image_shape should multiply to d = 6, was .3, 3."),
    ],
)
def test_images_must_fit_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images(**arguments)


def test_split_is_stratified_and_loses_nothing() -> None:
    rest, part = images().split(6, seed=5)
    np.testing.assert_array_equal(np.bincount(part.y), [2, 2, 2])
    both = np.concatenate([pixels(rest), pixels(part)])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(GREY, axis=0))
    np.testing.assert_array_equal(images().split(6, seed=5)[1].y, part.y)
    assert (pixels(images().split(6, seed=6)[1]) != pixels(part)).any()


@pytest.mark.parametrize("n", [0, 2, 28, 31])
def test_split_needs_every_class_on_both_sides(n: int) -> None:
    with pytest.raises(ValueError, match=rf"n should be in 3\.\.27.*was {n}"):
        images().split(n, seed=0)


def test_join_puts_the_others_behind() -> None:
    first, second = images()[:10], images()[10:]
    joined = first.join(second)
    np.testing.assert_array_equal(pixels(joined), GREY)
    np.testing.assert_array_equal(joined.y, LABELS)
    drawn = images(Dynamic(GREY))
    twice = drawn[:10].join(drawn[10:]).x
    assert isinstance(twice, Dynamic)
    np.testing.assert_array_equal(twice.probs, GREY)
    with pytest.raises(ValueError, match=r"other should have image_shape \(2, 3\), had \(3, 2\)"):
        first.join(images(shape=(3, 2)))


def test_digits_are_the_documented_split() -> None:
    counts, y = load_digits(return_X_y=True)
    rest, test, y_rest, y_test = train_test_split(
        counts / 16, y, test_size=500, stratify=y, random_state=0
    )
    train, validation = train_test_split(rest, test_size=200, stratify=y_rest, random_state=0)
    parts = digits()
    for part, expected in zip(parts, (train, validation, test), strict=True):
        np.testing.assert_array_equal(pixels(part), expected)
        assert (part.image_shape, part.n_classes, part.name) == ((8, 8), 10, "digits")
    np.testing.assert_array_equal(parts.test.y, y_test)
    assert [len(part) for part in parts] == [1097, 200, 500]


@pytest.mark.parametrize("binarisation", ["dynamic", "threshold"])
def test_digits_binarised(binarisation: Binarisation) -> None:
    for part in digits(binarisation):
        assert part.binarisation == binarisation
        assert isinstance(part.x, Dynamic) == (binarisation == "dynamic")
        if not isinstance(part.x, Dynamic):
            assert set(np.unique(part.x)) == {0.0, 1.0}


# Labels


@pytest.mark.parametrize("n_labels", [3, 7, 12, 29, 30])
def test_hide_labels_keeps_a_balanced_few(n_labels: int) -> None:
    kept = hide_labels(LABELS, n_labels, seed=0, n_classes=3)
    assert kept.dtype == np.int64
    known = kept >= 0
    assert known.sum() == n_labels
    np.testing.assert_array_equal(kept[known], LABELS[known])
    np.testing.assert_array_equal(np.unique(kept[~known]), [-1] if n_labels < 30 else [])
    assert set(np.bincount(kept[known])) <= {n_labels // 3, -(-n_labels // 3)}


def test_hide_labels_depends_on_the_seed_alone() -> None:
    keep = partial(hide_labels, LABELS, 7, n_classes=3)
    np.testing.assert_array_equal(keep(seed=1), keep(seed=1))
    draws = [keep(seed=seed) for seed in range(10)]
    assert len({int(np.flatnonzero(draw == 0)[0]) for draw in draws}) > 1  # which images
    assert len({int(np.bincount(draw[draw >= 0]).argmax()) for draw in draws}) > 1  # the remainder
    assert LABELS.min() == 0  # the argument is left as it was


def test_hide_labels_gives_the_remainder_to_classes_that_have_it() -> None:
    y = np.array([0, 1, 2, 2, 2])
    for seed in range(5):
        np.testing.assert_array_equal(
            np.sort(hide_labels(y, 4, seed, n_classes=3)), [-1, 0, 1, 2, 2]
        )


@pytest.mark.parametrize(
    ("y", "n_labels", "message"),
    [
        (LABELS, 2, r"n_labels should be in 3\.\.30 \(at least one per class.*was 2"),
        (LABELS, 31, "was 31"),
        (LABELS - 1, 3, r"y should be in 0\.\.2, was in -1\.\.1"),
        (LABELS + 1, 3, r"y should be in 0\.\.2, was in 1\.\.3"),
        (LABELS[:0], 3, r"y should be integers of shape \(n,\), n at least 1"),
        (LABELS[None], 3, r"was int64 of shape \(1, 30\)"),
        (LABELS / 1, 3, "y should be integers"),
        (np.array([0, 0, 0, 1, 1, 1, 2]), 6, "at least 2 examples.*had 1 of class 2"),
        (np.array([0, 1, 2, 2, 2]), 5, "2 classes of more than 1 examples.*had 1"),
        (np.array([0, 0, 0, 1, 1]), 3, "had 0 of class 2"),
    ],
)
def test_hide_labels_refuses(y: Array, n_labels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hide_labels(y, n_labels, seed=0, n_classes=3)


# The idx format

IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(array: Array) -> bytes:
    """An idx file of `array`, written from the format's description."""
    kind = array.dtype.str[1:]
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, IDX_CODES[kind], array.ndim]) + sizes + array.astype(">" + kind).tobytes()


WHOLE = idx_bytes(np.arange(24, dtype="u1").reshape(2, 3, 4))
PACKED = gzip.compress(WHOLE)


@pytest.mark.parametrize("kind", IDX_CODES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_read_idx(kind: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    array = np.arange(-12, 12).reshape(2, 3, 4).astype(kind)
    path = tmp_path / "file"
    path.write_bytes(pack(idx_bytes(array)))
    read = read_idx(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(kind)


BAD_IDX = {
    "magic number.*was empty": b"",
    "magic number.*was 00 00 08": WHOLE[:3],
    "magic number.*was 3c 21 44 4f": b"<!DOCTYPE html>",
    "magic number.*was 00 00 0a 03": b"\0\0\x0a\3" + WHOLE[4:],
    "magic number.*was 01 00 08 03": b"\1" + WHOLE[1:],
    "1..8 dimensions, declares 0": b"\0\0\x08\0",
    "1..8 dimensions, declares 200": b"\0\0\x08\xc8" + WHOLE,
    "declare 3 dimensions, was truncated": WHOLE[:15],
    r"24 bytes for shape \(2, 3, 4\), was truncated to 23": WHOLE[:-1],
    "end after 24 bytes .*, is longer": WHOLE + b"\0",
    "at most 1073741824 bytes, declares": WHOLE[:4] + b"\xff" * 12 + WHOLE[16:],
    "damaged: Compressed file ended": PACKED[:-9],
    "damaged: CRC check failed": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "damaged: Not a gzipped file": PACKED + b"more",
    "damaged: Error -3": PACKED[:10] + b"\xff" + PACKED[11:],
    "end after 24 bytes .*, is longer$": gzip.compress(WHOLE + b"0"),
}


@pytest.mark.parametrize("message", BAD_IDX)
def test_read_idx_refuses(message: str, tmp_path: Path) -> None:
    path = tmp_path / "some-file"
    path.write_bytes(BAD_IDX[message])
    with pytest.raises(ValueError, match=rf"some-file should .*{message}"):
        read_idx(path)


def test_no_more_is_read_than_the_header_promises(tmp_path: Path) -> None:
    stream = io.BytesIO(WHOLE + bytes(1000))
    with pytest.raises(ValueError, match="is longer"):
        parse_idx(stream, "stream")
    assert stream.tell() == len(WHOLE) + 1
    bomb = tmp_path / "bomb"
    bomb.write_bytes(gzip.compress(WHOLE + bytes(2**26), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(ValueError, match="is longer"):
        read_idx(bomb)
    assert unpack(bomb, len(WHOLE)) == (WHOLE, "longer than 40 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


# MNIST, with four small files in place of the real ones

ROLES = {
    "train images": RNG.integers(0, 256, (60, 3, 2), dtype=np.uint8),
    "train labels": RNG.permuted(np.arange(60) % 10).astype(np.uint8),
    "test images": RNG.integers(0, 256, (20, 3, 2), dtype=np.uint8),
    "test labels": (np.arange(20) % 10).astype(np.uint8),
}
ARCHIVES = {home.FILES[role].name + ".gz": gzip.compress(idx_bytes(ROLES[role])) for role in ROLES}
TRAIN = "train-images-idx3-ubyte.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no mirrors, and the small files' sums and sizes for the real ones."""
    files = {}
    for role, file in home.FILES.items():
        content = idx_bytes(ROLES[role])
        files[role] = file._replace(md5=hashlib.md5(content).hexdigest(), size=len(content))
    monkeypatch.setattr(home, "FILES", files)
    monkeypatch.setattr(home, "N_VALIDATION", 20)
    monkeypatch.setattr(home, "MIRRORS", ("http://127.0.0.1:9/unused/",))
    monkeypatch.setattr(home, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def write(folder: Path, archives: dict[str, bytes] = ARCHIVES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A local HTTP server's address, which serves `good/` with the files, and what else is put."""
    write(tmp_path / "www" / "good")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def check_parts(parts: tuple[Images, Images, Images]) -> None:
    """That these are the fake files' grey levels, the validation part last of the training file."""
    x = {role: ROLES[role].reshape(-1, 6) / np.float32(255) for role in ROLES if "images" in role}
    y, y_test = ROLES["train labels"], ROLES["test labels"]
    for part, (pixels_, labels) in zip(
        parts,
        [
            (x["train images"][:40], y[:40]),
            (x["train images"][40:], y[40:]),
            (x["test images"], y_test),
        ],
        strict=True,
    ):
        np.testing.assert_array_equal(pixels(part), pixels_)
        np.testing.assert_array_equal(part.y, labels)
        assert (part.image_shape, part.n_classes, part.name) == ((3, 2), 10, "mnist")


@pytest.mark.parametrize("subfolder", [".", "mnist"])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("given_by", ["folder", "environment", "cache"])
def test_mnist_is_found(
    given_by: str, plain: bool, subfolder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name[:-3]: gzip.decompress(content) for name, content in ARCHIVES.items()}
    base = tmp_path / ("data" if given_by != "cache" else ".")
    write(base / (subfolder if given_by != "cache" else "cache"), names if plain else ARCHIVES)
    if given_by == "environment":
        monkeypatch.setenv("PPL_VAE_DATA", str(base))
    check_parts(mnist("none", folder=base if given_by == "folder" else None))


def test_mnist_is_dynamic_unless_told_otherwise(tmp_path: Path) -> None:
    splits = mnist(folder=write(tmp_path / "data"))
    assert all(isinstance(part.x, Dynamic) for part in splits)
    assert (splits.train.binarisation, splits.train.x.shape) == ("dynamic", (40, 6))


def test_mnist_is_downloaded_once(
    mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(home, "MIRRORS", (mirror + "good/",))
    check_parts(mnist("none"))
    assert capsys.readouterr().err.count("100%") >= 4
    assert {path.name for path in cache.iterdir()} == set(ARCHIVES)
    monkeypatch.setattr(home, "MIRRORS", ())
    check_parts(mnist("none"))


BAD_ARCHIVES = {
    "truncated": ARCHIVES[TRAIN][:-20],
    "flipped": gzip.compress(idx_bytes(255 - ROLES["train images"])),
    "not gzip": b"<html>Sign in to this network</html>",
    "too long": gzip.compress(idx_bytes(ROLES["train images"]) + b"0"),
    "empty": b"",
}


@pytest.mark.parametrize("bad", [*BAD_ARCHIVES, "absent"])
def test_a_bad_mirror_is_passed_over(
    bad: str, mirror: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "www" / "bad", {TRAIN: BAD_ARCHIVES[bad]} if bad in BAD_ARCHIVES else {})
    monkeypatch.setattr(home, "MIRRORS", (mirror + "bad/", mirror + "good/"))
    check_parts(mnist("none"))
    assert (cache / TRAIN).read_bytes() == ARCHIVES[TRAIN]


def test_when_nothing_can_be_had_the_error_says_what_to_put_where(
    mirror: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "www" / "bad", {TRAIN: BAD_ARCHIVES["flipped"]})
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as closed:
        down = f"http://127.0.0.1:{closed.server_port}/"
    monkeypatch.setattr(home, "MIRRORS", (mirror + "bad/", down))
    with pytest.raises(FileNotFoundError) as caught:
        mnist()
    for told in (*ARCHIVES, "PPL_VAE_DATA", str(cache), mirror, down, "MD5", "refused"):
        assert told in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("bad", BAD_ARCHIVES)
def test_a_bad_file_is_refused(bad: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / TRAIN).write_bytes(BAD_ARCHIVES[bad])
    expected = home.FILES["train images"].md5
    found = f"MD5 (?!{expected})"
    if bad == "too long":  # its beginning is the right content
        found = "longer than 376 bytes"
    if bad == "truncated":
        found += ".*damaged gzip: Compressed file ended"
    message = f"{re.escape(str(folder / TRAIN))} should .*MD5 {expected}, was .*{found}"
    with pytest.raises(ValueError, match=message + ".*Delete it, .*put"):
        mnist(folder=folder)
    assert (folder / TRAIN).exists()  # a user's file is not ours to delete


@pytest.mark.parametrize("given_by", ["folder", "PPL_VAE_DATA"])
def test_a_named_folder_must_exist(
    given_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nowhere"
    monkeypatch.setenv("PPL_VAE_DATA", str(folder if given_by == "PPL_VAE_DATA" else tmp_path))
    with pytest.raises(ValueError, match=f"{given_by} should be an existing folder, was .*nowhere"):
        mnist(folder=folder if given_by == "folder" else None)


# The real files' sums and place, from before the fixture above hides them.
REAL = {name: getattr(home, name) for name in ("FILES", "N_VALIDATION")}
BESIDE = Path(__file__).parents[3] / "shared" / "data"
REAL_FOLDER = Path(os.environ.get("PPL_VAE_DATA") or BESIDE)


def test_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*REAL_FOLDER.glob(TRAIN[:-3] + "*"), *REAL_FOLDER.glob("mnist/" + TRAIN[:-3] + "*")]
    if not found:
        pytest.skip("MNIST's files are not there; PPL_VAE_DATA can name their folder")
    for name, value in REAL.items():
        monkeypatch.setattr(home, name, value)
    parts = mnist("none", REAL_FOLDER)
    assert [part.x.shape for part in parts] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    assert parts.train.image_shape == (28, 28)
    np.testing.assert_array_equal(parts.train.y[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(parts.test.y[:5], [7, 2, 1, 0, 4])
    assert pixels(parts.train).mean() == pytest.approx(0.1306, abs=0.001)  # published: 0.1307
    assert pixels(parts.train).max() == 1
