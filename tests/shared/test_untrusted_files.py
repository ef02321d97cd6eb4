"""Files from somebody else: what is wrong with them is a ValueError, and nothing in them runs."""

import ast
import ctypes
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import FOREIGN, HEADERS, MODELS, TARGETS, good, raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppl_vae
from ppl_vae import Model
from ppl_vae.data.idx import read_idx
from ppl_vae.inference.compilation import allocator
from ppl_vae.shared.io import safetensors_file

PACKAGE = Path(ppl_vae.__file__).parent

# What happens in Python while `watched` is on. A hook cannot be taken away again.
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "exec", "compile"),
    *("pickle.find_class", "socket.connect", "shutil.rmtree", "os.remove", "os.rename"),
)
_seen: list[str] = []
_watching = False


def _hook(event: str, arguments: Any) -> None:
    if _watching and (event in FORBIDDEN or (event == "open" and _writes(arguments))):
        _seen.append(f"{event} {arguments}")


def _writes(arguments: Any) -> bool:
    return isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wax+")


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[None]:
    """Nothing inside runs a program, compiles code, unpickles, writes a file, or takes memory."""
    global _watching
    with little_memory(200 * 2**20):
        _watching = True
        try:
            yield
        finally:
            _watching = False
            seen = _seen.copy()
            _seen.clear()
    assert seen == []


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Inside, arrays that take more memory, in bytes, are an AssertionError (on Linux).

    The limit on address space stops what is far too large before it is taken. What fits into
    memory that earlier tests freed and the process kept is seen by the peak of its resident pages.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    ctypes.CDLL(None).malloc_trim(0)  # kept memory is resident no more
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most, limits[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        raise AssertionError(f"took more than {most} bytes") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert peak() - before <= most


def peak() -> int:
    """The most memory, in bytes, that was resident."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.fixture(autouse=True, scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What torch compiles and imports when it is first used is not what a file makes it do."""
    text, arrays = good()
    path = tmp_path_factory.mktemp("warm") / "model"
    safetensors_file.write(path, arrays, text)
    Model.load(path)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a file would run leaves a file "executed" here."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize(
    "act",
    [lambda: eval("1 + 1"), lambda: Path("file").write_text("a"), lambda: torch.zeros(2**27)],
    ids=["code", "write", "memory"],
)
def test_the_watch_sees_what_it_is_for(act: Callable[[], object]) -> None:
    with pytest.raises(AssertionError), watched():
        act()


def test_the_watch_sees_memory_that_an_earlier_test_freed() -> None:
    """A step keeps what was freed: a new array then needs no new address space."""
    allocator.retain_freed_memory()
    held = [torch.ones(size) for size in (2**26 + 2**20, 2**20)]
    del held[0]  # what lies below the other one cannot go back to the system
    with pytest.raises(AssertionError), watched():
        torch.ones(2**26)


# The corpus


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_refused(name: str, tmp_path: Path) -> None:
    make, words = MODELS[name]
    text, arrays = make()
    path = tmp_path / "model.safetensors"
    safetensors_file.write(path, arrays, text)
    with watched(), pytest.raises(ValueError, match=words) as caught:
        Model.load(path)
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 2000


class Brittle(Model):
    """A model of the user's own, whose arguments are not checked."""

    def __init__(self, error: str) -> None:
        super().__init__()
        raise {e.__name__: e for e in (RuntimeError, KeyError, ZeroDivisionError)}[error]("why")


@pytest.mark.parametrize("error", ["RuntimeError", "KeyError", "ZeroDivisionError", "other"])
def test_whatever_a_constructor_raises_is_a_value_error(error: str, tmp_path: Path) -> None:
    safetensors_file.write(
        tmp_path / "model", {}, {"class": "Brittle", "arguments": {"error": error}}
    )
    words = r"model' is not: arguments should be those of Brittle, were \{'error': .* \('?(why|oth)"
    with pytest.raises(ValueError, match=words):
        Model.load(tmp_path / "model")


def test_a_good_model_of_this_kind_is_loaded(tmp_path: Path) -> None:
    text, arrays = good()
    safetensors_file.write(tmp_path / "model", arrays, text)
    with watched():
        model = Model.load(tmp_path / "model")
    assert model.describe() == text
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, arrays[name])


@pytest.mark.parametrize("name", [*HEADERS, *FOREIGN])
def test_a_file_that_is_no_such_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes({**HEADERS, **FOREIGN}[name]())
    words = r"path should be a whole file written by ppl_vae, was '.*model\.safetensors'"
    for read in (safetensors_file.read, Model.load):
        with watched(), pytest.raises(ValueError, match=words) as caught:
            read(path)
        assert len(str(caught.value)) < 2000


TEXTS = {
    "a number of its text is NaN": '{"a": NaN}',
    "a name occurs twice": '{"a": 1, "a": 2}',
    "its text is not a JSON object": "[1]",
    "more than 10000 values": '{"a": [' + "0, " * 10_000 + "0]}",
    "more than 50 levels": '{"a": ' + "[" * 50 + "]" * 50 + "}",
    "nested too deeply": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "Expecting value": "",
}


@pytest.mark.parametrize("words", TEXTS)
def test_text_that_is_ambiguous_or_too_large_is_refused(words: str, tmp_path: Path) -> None:
    text = TEXTS[words]
    about = {"ppl_vae": text, "sha256": safetensors_file._checksum({}, text)}
    (tmp_path / "file").write_bytes(raw({"__metadata__": about}))
    with watched(), pytest.raises(ValueError, match=words):
        safetensors_file.read(tmp_path / "file")


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    for text, arrays, words in (
        ({"a": float("nan")}, {}, "is NaN"),
        ({"a": [0] * 10_000}, {}, "more than 10000 values"),
        ({}, {"a" * 2**21: np.zeros(1)}, "header of at most 2097152 bytes"),
    ):
        with pytest.raises(ValueError, match=words):
            safetensors_file.write(tmp_path / "file", arrays, text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "i2", ">i4", "i8", "u1", "?"])
def test_arrays_of_any_kind_come_back(dtype: str, tmp_path: Path) -> None:
    whole = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    arrays = {"c": whole, "f": whole.T, "scalar": whole[0, 0, 1], "none": whole[:0], "": whole[:1]}
    safetensors_file.write(tmp_path / "file", arrays, {"a": [1, float("-inf"), "ü"]})
    read, text = safetensors_file.read(tmp_path / "file")
    assert text == {"a": [1, float("-inf"), "ü"]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype.newbyteorder("=")


def test_a_header_of_blanks_is_not_gone_through(tmp_path: Path) -> None:
    path = tmp_path / "file"
    safetensors_file.write(path, {"a": np.zeros(3)}, {})
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for blanks, words in ((1000, ""), (2**21, "its header has .* bytes, more than 2097152")):
        path.write_bytes(raw(whole[8 : 8 + size] + b" " * blanks, whole[8 + size :]))
        if not words:
            assert safetensors_file.read(path)[0].keys() == {"a"}
            continue
        with pytest.raises(ValueError, match=words):
            safetensors_file.read(path)


IDX: dict[str, tuple[bytes, str]] = {
    "a-gigabyte": (b"\0\0\x08\1\x3f\xff\xff\xff", "1073741823 bytes .* truncated to 0"),
    "more": (b"\0\0\x0e\2" + b"\xff" * 8, "at most 1073741824 bytes, declares"),
    "eight": (b"\0\0\x08\x08" + b"\xff" * 32, "at most 1073741824 bytes, declares"),
    "none-of-many": (
        b"\0\0\x08\x08" + bytes(4) + b"\xff" * 28,
        "at most 1073741824 bytes, declares",
    ),
    "none-of-few": (b"\0\0\x0e\2" + bytes(4) + b"\0\0\0\1" + b"more", "end after 0 bytes"),
}


@pytest.mark.parametrize("name", IDX)
def test_an_idx_file_takes_no_memory_for_what_it_promises(name: str, tmp_path: Path) -> None:
    content, words = IDX[name]
    (tmp_path / "idx").write_bytes(content)
    with watched(), pytest.raises(ValueError, match=rf"{tmp_path}/idx should .*{words}"):
        read_idx(tmp_path / "idx")


# By chance


TRIES = {"content of a checkpoint": 6, "bytes of a checkpoint": 40}


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_changed_by_chance_is_read_right_or_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("chance")
    outcomes: list[str] = []

    @settings(
        max_examples=TRIES.get(name, 80),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def check(rng: random.Random) -> None:
        outcomes.append(TARGETS[name](rng, folder))

    check()
    assert "refused" in outcomes


# The package


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def names_used(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """What a file imports and calls, by its dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


BANNED = (
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"),
    *("eval", "exec", "compile", "__import__", "subprocess", "os.system", "os.popen"),
    *("torch.load", "torch.jit.load", "torch.package", "np.load", "numpy.load", "jnp.load"),
    *("np.fromfile", "pd.read_pickle", "pooch.Unzip", "pooch.Untar", "tarfile", "zipfile"),
)


def test_nothing_in_the_package_unpickles_or_executes() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sources()
        for name, _ in names_used(path)
        if any(name == banned or name.startswith(f"{banned}.") for banned in BANNED)
    ]
    assert found == []


def test_the_scan_sees_what_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("import pickle\nfrom yaml import load\nx = torch.load('a')\neval('1')\n")
    names = [name for name, _ in names_used(path)]
    assert names == ["pickle", "yaml.load", "torch.load", "eval"]
    assert len(sources()) > 50
