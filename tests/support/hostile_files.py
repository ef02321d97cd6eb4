"""Files that are damaged or hostile, and ways to damage good ones; for tests and for long fuzzing.

`MODELS`, `HEADERS` and `FOREIGN` are the corpus. `mutated` changes bytes, `twisted` changes JSON
values. Each of `TARGETS` makes one file from random numbers, reads it, and fails unless what comes
is right or a `ValueError`.
"""

import gzip
import io
import json
import math
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from resume_support import SEMI, data
from support import make, objective_of

from ppl_vae import Model, fit
from ppl_vae.data.idx import read_idx
from ppl_vae.models import VAE, StandardNormal
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import CHECKPOINT, Checkpoint

Arrays = dict[str, np.ndarray]


def good() -> tuple[dict[str, Any], Arrays]:
    """What the file of a small model holds."""
    model = VAE(6, 2, (3,), "tanh", prior=StandardNormal(2))
    return model.describe(), {n: v.numpy() for n, v in model.state_dict().items()}


def with_arguments(**changes: Any) -> tuple[Any, Arrays]:
    text, arrays = good()
    return {**text, "arguments": {**text["arguments"], **changes}}, arrays


def with_arrays(**changes: Any) -> tuple[Any, Arrays]:
    """The bias of the decoder, or under another name, is another array; None: it is left out."""
    text, arrays = good()
    for key, value in changes.items():
        name = "decoder.logits.bias" if key == "bias" else key
        arrays.pop(name, None)
        if value is not None:
            arrays[name] = value
    return text, arrays


def of_class(name: Any) -> tuple[Any, Arrays]:
    text, arrays = good()
    return {**text, "class": name}, arrays


def part(name: Any, **arguments: Any) -> dict[str, Any]:
    return {"class": name, "arguments": arguments}


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = part("VAE", x_dim=6, z_dim=2, hidden=[3], prior=value)
    return value


BOMB = "__import__('os').system('touch executed')"
MODELS: dict[str, tuple[Callable[[], tuple[Any, Arrays]], str]] = {
    # Classes that are not models
    **{
        f"class-{name}": (lambda name=name: of_class(name), "class should be Model|'class' and")
        for name in ("os.system", "Popen", "DiagNormalNet", "", BOMB, 7, None, ["VAE"], {"a": 1})
    },
    "class-of-nothing": (lambda: ({}, {}), "'class' and 'arguments'"),
    "class-abstract": (lambda: (part("Model"), good()[1]), "unknown: |those of Model"),
    "part-popen": (lambda: with_arguments(prior=part("Popen", args=BOMB)), "class should be Net"),
    "part-no-class": (lambda: with_arguments(prior={"a": 1}), "'class' and 'arguments'"),
    "part-model": (lambda: with_arguments(encoder=nested(1)), "weights should|encoder should"),
    "part-nested": (lambda: with_arguments(prior=nested(20)), "weights should|prior should"),
    "part-text": (lambda: with_arguments(encoder=BOMB), "encoder should be a network"),
    "part-list": (lambda: with_arguments(prior=[1]), "prior should be a network"),
    "part-number": (lambda: with_arguments(decoder=5), "decoder should be a network"),
    # Arguments of another type, or of an absurd size
    "no-arguments": (lambda: ({"class": "VAE"}, {}), "'class' and 'arguments'"),
    "list-of-arguments": (lambda: ({"class": "VAE", "arguments": [6]}, {}), "'class' and"),
    "unknown-argument": (lambda: with_arguments(spare=1), "arguments should be those of VAE"),
    "self": (lambda: with_arguments(self=1), "arguments should be those of VAE"),
    "key": (lambda: with_arguments(key=1), "arguments should be those of VAE|key should be"),
    **{
        f"x_dim-{value}"[:20]: (lambda value=value: with_arguments(x_dim=value), "is not: ")
        for value in (10**8, 10**12, 10**18, 10**30, -1, 0, 2.5, math.inf, "6", None, [6], {}, True)
    },
    "z_dim": (lambda: with_arguments(z_dim=10**8), "of another shape"),
    "hidden-large": (lambda: with_arguments(hidden=[10**4, 10**4]), "missing|of another shape"),
    "hidden-deep": (lambda: with_arguments(hidden=[1] * 1000), "missing"),
    "hidden-text": (lambda: with_arguments(hidden="abc"), "hidden should be"),
    "hidden-nested": (lambda: with_arguments(hidden=[[3], [3]]), "hidden should be"),
    "activation": (lambda: with_arguments(activation=BOMB), "activation should be"),
    "activation-dunder": (lambda: with_arguments(activation="__class__"), "activation should be"),
    "activation-list": (lambda: with_arguments(activation=[]), "activation should be|arguments"),
    "prior-large": (
        lambda: with_arguments(prior=part("StandardNormal", z_dim=10**9)),
        "should hold little beside its weights|z_dim",
    ),
    # Arrays of another kind
    "nan": (lambda: with_arrays(bias=np.full(6, np.nan, "f4")), r"finite.*decoder\.logits\.bias"),
    "infinity": (lambda: with_arrays(bias=np.full(6, np.inf, "f8")), "weights should be finite"),
    "integers": (lambda: with_arrays(bias=np.zeros(6, "i8")), "of another kind of number"),
    "booleans": (lambda: with_arrays(bias=np.zeros(6, bool)), "of another kind of number"),
    "complex": (lambda: with_arrays(bias=np.zeros(6, "c8")), "of another kind of number"),
    "shape": (lambda: with_arrays(bias=np.zeros(7, "f4")), "of another shape"),
    "scalar": (lambda: with_arrays(bias=np.zeros((), "f4")), "of another shape"),
    "missing": (lambda: with_arrays(bias=None), r"missing: \['decoder\.logits\.bias'\]"),
    "path": (lambda: with_arrays(**{"../../executed": np.zeros(1)}), "unknown: .*executed"),
    "absolute": (lambda: with_arrays(**{"/tmp/executed": np.zeros(1)}), "unknown: .*executed"),
    "dunder": (lambda: with_arrays(__class__=np.zeros(1)), "unknown: .*__class__"),
    "nul": (lambda: with_arrays(**{"a\0b": np.zeros(1)}), "unknown: "),
}  # fmt: skip


def raw(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file, written from the format's description: a length, JSON, the arrays."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + content


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ABOUT = {"ppl_vae": "{}", "sha256": "0" * 64}


def one(**changes: Any) -> bytes:
    """A file of one array that is described wrongly."""
    return raw({"__metadata__": ABOUT, "a": entry(**changes)}, bytes(8))


DEEP = 100_000
HEADERS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "short": lambda: b"\0\0\0",
    "length-0": lambda: raw(b""),
    "length-huge": lambda: raw({}, length=2**64 - 1),
    "length-beyond": lambda: raw({}, bytes(100), length=2**40),
    "length-allowed-by-others": lambda: raw(b" " * (2**21 + 1)),
    "not-json": lambda: raw(b"{'a': 1}"),
    "list": lambda: raw([1, 2]),
    "number": lambda: raw(7),
    "not-utf8": lambda: raw(b'{"\xff": 1}'),
    "utf16": lambda: raw(json.dumps({"__metadata__": ABOUT}).encode("utf-16")),
    "deep": lambda: raw(b"[" * DEEP + b"]" * DEEP),
    "deep-text": lambda: raw({"__metadata__": {**ABOUT, "ppl_vae": "[" * DEEP + "]" * DEEP}}),
    "many-digits": lambda: raw(b'{"a": ' + b"9" * 10_000 + b"}"),
    "no-metadata": lambda: raw({"a": entry()}, bytes(8)),
    "metadata-list": lambda: raw({"__metadata__": [1]}),
    "metadata-numbers": lambda: raw({"__metadata__": {"ppl_vae": 1, "sha256": 2}}),
    "no-checksum": lambda: raw({"__metadata__": {"ppl_vae": "{}"}}),
    "other-checksum": lambda: raw({"__metadata__": ABOUT}),
    "name-twice": lambda: raw(
        b'{"__metadata__": {"ppl_vae": "{}", "sha256": "0"}, "a": %s, "a": %s}'
        % ((json.dumps(entry()).encode(),) * 2),
        bytes(8),
    ),
    "offsets-beyond": lambda: one(offsets=(0, 10**9), shape=(250_000_000,)),
    "offsets-negative": lambda: one(offsets=(-8, 0)),
    "offsets-reversed": lambda: one(offsets=(8, 0)),
    "offsets-text": lambda: one(offsets=("0", "8")),
    "offsets-one": lambda: one(offsets=(8,)),
    "offsets-hole": lambda: one(offsets=(4, 8), shape=(1,)),
    "overlap": lambda: raw({"__metadata__": ABOUT, "a": entry(), "b": entry()}, bytes(8)),
    "shape-lies": lambda: one(shape=(3,)),
    "shape-huge": lambda: one(shape=(2**62, 4)),
    "shape-wraps": lambda: one(shape=(2**32, 2**32)),
    "shape-negative": lambda: one(shape=(-2,)),
    "shape-half": lambda: one(shape=(2.0,)),
    "shape-number": lambda: one(shape=2),
    "shape-null": lambda: one(shape=None),
    **{
        f"type-{name}": (lambda name=name: one(dtype=name))
        for name in ("O", "PICKLE", "", None, 3, "F8_E4M3", "F4", "BF16", "|O", "f4", "F64", "I8")
    },
}


class Executes:
    """Pickled, what runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def archive() -> bytes:
    """As torch.save writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr("archive/data.pkl", pickle.dumps(Executes()))
        whole.writestr("archive/version", "3")
    return file.getvalue()


def objects() -> bytes:
    """As numpy.save writes an array of objects."""
    file = io.BytesIO()
    np.save(file, np.array([Executes()], dtype=object), allow_pickle=True)
    return file.getvalue()


FOREIGN: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Executes()),
    "torch": archive,
    "numpy": objects,
    "gzip": lambda: gzip.compress(pickle.dumps(Executes())),
    "program": lambda: b"#!/bin/sh\ntouch executed\n",
    "yaml": lambda: b"!!python/object/apply:os.system ['touch executed']\n",
}


# Good files made bad by chance


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with a few bytes changed, moved, added or lost; early ones more often."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, rng.choice([16, len(changed), len(changed)]))
        end = place + rng.choice([1, 1, 2, 8, 100])
        kind = rng.choice(["flip", "byte", "digit", "delete", "insert", "double", "cut", "length"])
        if kind == "flip" and place < len(changed):
            changed[place] ^= 1 << rng.randint(0, 7)
        elif kind == "byte" and place < len(changed):
            changed[place] = rng.choice([0, 255, rng.randint(0, 255)])
        elif kind == "digit":
            digits = [i for i, byte in enumerate(changed) if chr(byte).isdigit()]
            if digits:
                changed[rng.choice(digits)] = ord(rng.choice("0123456789-.e"))
        elif kind == "delete":
            del changed[place:end]
        elif kind == "insert":
            changed[place:place] = bytes([rng.randint(0, 255)]) * (end - place)
        elif kind == "double":
            changed[place:place] = changed[place:end]
        elif kind == "cut":
            del changed[place:]
        elif kind == "length":
            changed[:8] = rng.choice([0, 2**20, 2**63, rng.randint(0, 5000)]).to_bytes(8, "little")
    return bytes(changed)


NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 6, 10**8, 10**12, 10**18, 10**30, 0.5, 2.5, -1e308,
    math.inf, -math.inf, "", "a", "6", BOMB, "__class__", "VAE", "M2", "tanh", "\0", "\ud800",
    [], [[]], [0], [-1], [3, 3], [10**9], [1] * 500, {}, {"class": "VAE"}, {"arguments": {}},
    part("StandardNormal", z_dim=2), part("StandardNormal", z_dim=10**9), part("VAE"),
    part("DiagNormalNet", in_dims=6, out_dim=2, hidden=[3]), nested(5),
]  # fmt: skip


def twisted(value: Any, rng: random.Random) -> Any:
    """JSON with one value, somewhere inside, lost, doubled or replaced by one of `NASTY`."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        key, inner = rng.choice(items)
        change = rng.choice(["inside"] * 8 + ["lost", "doubled"])
        if isinstance(value, dict):
            rest = {k: v for k, v in value.items() if k != key}
            name = key if change != "doubled" else f"{key}2"
            return rest if change == "lost" else {**rest, name: twisted(inner, rng)}
        middle = {"lost": [], "doubled": [inner, inner]}.get(change) if change != "inside" else None
        return (
            value[:key] + ([twisted(inner, rng)] if middle is None else middle) + value[key + 1 :]
        )
    return rng.choice(NASTY)


def warped(arrays: Mapping[str, np.ndarray], rng: random.Random) -> Arrays:
    """One array lost, renamed, or of other numbers, shape or type."""
    changed = dict(arrays)
    name = rng.choice(sorted(changed))
    array = changed.pop(name)
    kind = rng.choice(["lost", "renamed", "shape", "type", "numbers", "added"])
    if kind == "renamed":
        changed[rng.choice(["a", "model.", "..", name + ".x", name[:-1], "optimizer.0"])] = array
    elif kind == "shape":
        sizes = [(), (0,), (1,), (7,), (*array.shape, 1), array.shape[::-1]]
        changed[name] = np.zeros(rng.choice(sizes), array.dtype)
    elif kind == "type":
        types = ["f2", "f4", "f8", "i1", "i8", "u1", "u8", "?", "c8"]
        changed[name] = np.zeros(array.shape, rng.choice(types))
    elif kind == "numbers":
        number = rng.choice([0, 1, -1, 127, np.nan, np.inf, -np.inf, 1e30])
        changed[name] = np.full(array.shape, number if array.dtype.kind == "f" else 1, array.dtype)
    elif kind == "added":
        changed |= {name: array, rng.choice(["a", "model.a", "optimizer.9.step"]): array}
    return changed


def _refused(error: ValueError, path: Path) -> str:
    """An error that says which file it is about."""
    assert str(path) in str(error)
    return "refused"


def bytes_of_a_file(rng: random.Random, folder: Path) -> str:
    """A file with other bytes has the same content, or is refused."""
    text, arrays = good()
    path = folder / "model"
    safetensors_file.write(path, arrays, text)
    path.write_bytes(mutated(path.read_bytes(), rng))
    try:
        read, about = safetensors_file.read(path)
    except ValueError as error:
        return _refused(error, path)
    assert about == text
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)
    return "read"


def content_of_a_model(rng: random.Random, folder: Path) -> str:
    """A well-formed file of other content gives a model that could be saved so, or is refused."""
    text, arrays = good()
    which = rng.randint(0, 2)
    text = twisted(text, rng) if which != 1 else text
    arrays = warped(arrays, rng) if which != 0 else arrays
    path = folder / "model"
    try:
        safetensors_file.write(path, arrays, text)
        model = Model.load(path)
    except ValueError:
        return "refused"
    assert isinstance(model, Model)
    state = model.state_dict()
    assert {n: tuple(v.shape) for n, v in state.items()} == {n: a.shape for n, a in arrays.items()}
    assert all(bool(value.isfinite().all()) for value in state.values())
    return "read"


_saved: dict[str, bytes] = {}


def _checkpoint(folder: Path) -> Path:
    """The checkpoint of a short run, in `folder` with its metrics."""
    if not _saved:
        _resume(folder, 1, resume=False)
        _saved.update((name, (folder / name).read_bytes()) for name in (CHECKPOINT, "metrics.csv"))
    for old in folder.glob("checkpoint*"):
        old.unlink()
    for name, content in _saved.items():
        (folder / name).write_bytes(content)
    return folder / CHECKPOINT


def _resume(folder: Path, epochs: int, resume: bool = True) -> None:
    settings: dict[str, Any] = {"batch_size": 12, "device": "cpu", "progress": False}
    fit(
        make(SEMI), data(), objective_of(SEMI), epochs=epochs, out=folder, resume=resume, **settings
    )


def content_of_a_checkpoint(rng: random.Random, folder: Path) -> str:
    """A well-formed checkpoint of other content is gone on from, or refused."""
    path = _checkpoint(folder)
    arrays, text = safetensors_file.read(path)
    which = rng.randint(0, 2)
    text = twisted(text, rng) if which != 1 else text
    arrays = warped(arrays, rng) if which != 0 else arrays
    try:
        safetensors_file.write(path, arrays, text)
        _resume(folder, 2)
    except (ValueError, FloatingPointError):  # numbers of a checkpoint may be infinite
        return "refused"
    return "read"


def bytes_of_a_checkpoint(rng: random.Random, folder: Path) -> str:
    """A checkpoint with other bytes is the same, or the one before it is found."""
    run = {"seed": 1}
    for name in folder.glob("checkpoint*"):
        name.unlink()
    for epoch in (1, 2):
        Checkpoint(run, epoch, {"model.a": np.full(3, epoch)}, {}).save(folder)
    newest = folder / CHECKPOINT
    newest.write_bytes(mutated(newest.read_bytes(), rng))
    found = Checkpoint.find(folder, run, 9)
    assert found is not None
    assert found.arrays["model.a"].tolist() == [found.epoch] * 3
    return "read" if found.epoch == 2 else "refused"


def bytes_of_an_idx_file(rng: random.Random, folder: Path) -> str:
    """An idx file with other bytes gives an array that is as large as it says, or is refused."""
    whole = b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(range(24))
    path = folder / "idx"
    packed = rng.random() < 0.5
    changed = mutated(gzip.compress(whole, mtime=0) if packed else whole, rng)
    path.write_bytes(changed)
    try:
        array = read_idx(path)
    except ValueError as error:
        return _refused(error, path)
    if packed and changed[:2] == b"\x1f\x8b":  # which has a checksum
        assert array.tobytes() == bytes(range(24))
    elif not packed:
        assert array.nbytes == len(changed) - 4 - 4 * array.ndim
    return "read"


TARGETS: dict[str, Callable[[random.Random, Path], str]] = {
    "bytes of a file": bytes_of_a_file,
    "content of a model": content_of_a_model,
    "bytes of a checkpoint": bytes_of_a_checkpoint,
    "content of a checkpoint": content_of_a_checkpoint,
    "bytes of an idx file": bytes_of_an_idx_file,
}
