"""A disk that is full, read-only or damaged, and two runs on it: nothing good is lost."""

import errno
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk_support import no_trainer
from resume_support import SEMI, assert_same_run, other_weights, run
from support import PYTHONPATH, make, start_python

from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.training.checkpoints import (
    CHECKPOINT,
    DAMAGED,
    PREVIOUS,
    Checkpoint,
    check_writable,
    locked,
    remove,
)
from ppl_vae.shared.training.metrics import METRICS, Metrics

RUN = {"seed": 1, "alpha": float("-inf"), "objective": {"k": None}}


def checkpoint(epoch: int, size: int = 3, batch: int = 0) -> Checkpoint:
    arrays = {"model.a": np.full(size, epoch, np.float32), "random.b": np.arange(epoch)}
    return Checkpoint(RUN, epoch, arrays, {"random": [epoch]}, batch)


def found(out: Path, epochs: int = 99) -> Checkpoint:
    read = Checkpoint.find(out, RUN, epochs)
    assert read is not None
    expected = checkpoint(read.epoch, batch=read.batch)
    assert (read.run, read.extra) == (expected.run, expected.extra)
    assert all((read.arrays[name] == array).all() for name, array in expected.arrays.items())
    return read


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


# Checkpoints that are written


def test_the_last_two_stay(tmp_path: Path) -> None:
    assert Checkpoint.find(tmp_path, RUN, 99) is None
    for epoch in (1, 2, 3):
        checkpoint(epoch).save(tmp_path)
    assert sorted(contents(tmp_path)) == [PREVIOUS, CHECKPOINT]
    epochs = [safetensors_file.read(tmp_path / name)[1]["epoch"] for name in (PREVIOUS, CHECKPOINT)]
    assert epochs == [2, 3]
    assert found(tmp_path).epoch == 3


def test_a_place_inside_an_epoch_is_kept(tmp_path: Path) -> None:
    checkpoint(0, batch=7).save(tmp_path)
    assert (found(tmp_path, 1).epoch, found(tmp_path, 1).batch) == (0, 7)
    checkpoint(2, batch=7).save(tmp_path)
    with pytest.raises(ValueError, match=r"epochs should be at least the 3 .* was 2"):
        found(tmp_path, 2)


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(1).save(tmp_path)
    done: list[str] = []
    sync, move = os.fsync, Path.replace

    def syncing(descriptor: int) -> None:
        status = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(status.st_mode) else f"file of {status.st_size}")
        sync(descriptor)

    def moving(self: Path, to: Path) -> Path:
        done.append(f"{self.name} to {to.name}")
        return move(self, to)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", moving)
    checkpoint(2).save(tmp_path)
    size = (tmp_path / CHECKPOINT).stat().st_size
    moves = [f"{CHECKPOINT} to {PREVIOUS}", f"{CHECKPOINT}.unfinished to {CHECKPOINT}"]
    assert done == [f"file of {size}", *moves, "folder"]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A limit of the operating system: what is written beyond it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoint(epoch).save(tmp_path)
    before = contents(tmp_path)
    with (
        no_file_larger_than(5000),
        pytest.raises(OSError, match=rf"{CHECKPOINT}' could not be written \(File too large\)"),
    ):
        checkpoint(3, size=5000).save(tmp_path)
    assert contents(tmp_path) == before
    checkpoint(3).save(tmp_path)
    assert found(tmp_path).epoch == 3


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failure", [FULL, KeyboardInterrupt()], ids=["full", "interrupted"])
@pytest.mark.parametrize("call", range(4), ids=["sync", "rename-old", "rename-new", "sync-folder"])
def test_a_save_that_fails_half_way_loses_nothing(
    call: int, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in (1, 2):
        checkpoint(epoch).save(tmp_path)
    before, calls = contents(tmp_path), 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise failure
            return real(*arguments)

        return called

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    with pytest.raises(type(failure)) as caught:
        checkpoint(3).save(tmp_path)
    monkeypatch.undo()
    if failure is FULL:
        assert f"{CHECKPOINT}' could not be written (No space left on device)" in str(caught.value)
    after = contents(tmp_path)
    if call < 2:
        assert after == before
    elif call == 2:  # the older one had gone already; the last good one has its name again
        assert after == {CHECKPOINT: before[CHECKPOINT]}
    else:
        assert found(tmp_path).epoch == 3
        assert after[PREVIOUS] == before[CHECKPOINT]
    assert found(tmp_path).epoch == (2 if call < 3 else 3)


def in_a_file_system_of_its_own(program: str, folder: Path) -> str:
    """What `program` prints beside a disk of 64 kB that is mounted on `folder`."""
    if not (shutil.which("unshare") and sys.platform == "linux"):
        pytest.skip("a file system can be mounted for a test on Linux alone, with unshare")
    mount = f"mount -t tmpfs -o size=64k small {folder}"
    may = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True)
    if may.returncode:
        pytest.skip(f"no file system can be mounted here: {may.stderr.strip()}")
    run = [sys.executable, "-c", program, str(folder)]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    shell = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"', *run]
    done = subprocess.run(shell, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    printed = in_a_file_system_of_its_own(
        """
import subprocess, sys
from pathlib import Path
import numpy as np
from ppl_vae.shared.training.checkpoints import Checkpoint, check_writable, locked, remove
from ppl_vae.shared.training.metrics import Metrics
out = Path(sys.argv[1])
for epoch in range(1, 20):
    try:
        Checkpoint({}, epoch, {"a": np.ones(1000 * epoch)}, {}).save(out)
    except OSError as error:
        print(epoch, error)
        break
print(Checkpoint.find(out, {}, 99).epoch, *sorted(file.name for file in out.iterdir()))
metrics = Metrics(out, 0)
try:
    for row in range(1, 5000):
        metrics.append({"epoch": float(row), "loss": 0.1})
except OSError as error:
    print(error)
remove(out)
whole = (out / "metrics.csv").read_text().count("\\n") - 1
print(len(Metrics(out, whole).rows) == whole, whole > 100)
subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
for folder in (out, out / "new"):
    try:
        with locked(folder):
            print("locked")
    except ValueError as error:
        print(error)
try:
    check_writable(out / "new")
except ValueError as error:
    print(error)
""",
        tmp_path,
    )
    # Two of 16 and 24 kB stand there: no room for one of 32 kB.
    expected = [
        f"4 [Errno 28] '{tmp_path}/{CHECKPOINT}' could not be written (No space left on device); "
        "what was there stays",
        f"3 {PREVIOUS} {CHECKPOINT}",
        f"[Errno 28] '{tmp_path}/{METRICS}' could not be written (No space left on device); "
        "what was there stays",
        "True True",
        f"out should be a folder that can be written to, was '{tmp_path}' (Read-only file system)",
        *2
        * [
            f"out should be a folder that can be written to, was '{tmp_path}/new' "
            "(Read-only file system)"
        ],
    ]
    assert printed.splitlines() == expected


@pytest.mark.parametrize("inside", ["", "folder"])
def test_a_folder_that_is_a_file_is_refused(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys.modules["ppl_vae.inference.training.fit"], "Trainer", no_trainer)
    with pytest.raises(ValueError, match="out should be a folder that can be written to, was"):
        run(tmp_path / "file" / inside, epochs=1)


@pytest.mark.parametrize("out", [5, b"out", True])
def test_what_is_no_path_is_refused(out: Any) -> None:
    with pytest.raises(ValueError, match=f"out should be a path or None, was {out!r}"):
        run(out, epochs=1)


@pytest.mark.parametrize(
    ("name", "why"),
    [("file", "Not a directory"), ("file/new", "Not a directory"), ("n" * 300, "name too long")],
)
def test_a_folder_that_cannot_be_is_found_out_before(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"out should be a folder .*, was '.*{name}' \(.*{why}"):
        check_writable(tmp_path / name)


def test_a_folder_that_can_be_is_not_made_yet(tmp_path: Path) -> None:
    for name in ("", "new", "new/er"):
        check_writable(tmp_path / name)
    check_writable(Path("new"))
    assert contents(tmp_path) == {}


# Checkpoints that are damaged


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "ends before its header does, after 0 bytes"),
    "truncated": (lambda whole: whole[:-1], "whole file written by ppl_vae"),
    "flipped": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "does not have the checksum"),
    "zeros": (lambda whole: bytes(len(whole)), "whole file written by ppl_vae"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_good_one_before_is_found_and_stays(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in (1, 2, 3):
        checkpoint(epoch).save(tmp_path)
    damage, why = DAMAGE[name]
    damaged = damage((tmp_path / CHECKPOINT).read_bytes())
    (tmp_path / CHECKPOINT).write_bytes(damaged)
    good = (tmp_path / PREVIOUS).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path).epoch == 2
    (record,) = caplog.records
    assert why in record.message
    assert f"{tmp_path / CHECKPOINT}'" in record.message
    assert f"goes on from '{tmp_path / PREVIOUS}', after epoch 2" in record.message
    assert contents(tmp_path) == {PREVIOUS: good, DAMAGED: damaged}
    caplog.clear()
    assert found(tmp_path).epoch == 2
    assert "is missing" in caplog.text
    checkpoint(3).save(tmp_path)
    assert (tmp_path / PREVIOUS).read_bytes() == good
    assert found(tmp_path).epoch == 3


def test_a_run_that_goes_back_ends_as_one_that_did_not(tmp_path: Path) -> None:
    full = run(tmp_path / "full")
    out = tmp_path / "out"
    run(out, epochs=4)
    whole = (out / CHECKPOINT).read_bytes()
    (out / CHECKPOINT).write_bytes(whole[:-1])
    assert len(run(out, 3, other_weights(), resume=True).rows) == 3
    assert len((out / METRICS).read_text().splitlines()) == 1 + 3
    assert_same_run(out, full.out, run(out, 5, other_weights(), resume=True), full)


def test_any_bit_that_is_flipped_is_seen(tmp_path: Path) -> None:
    checkpoint(1).save(tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    same = 0
    for place in range(len(whole)):
        bit = 1 << place % 8
        damaged = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        try:
            same += found(tmp_path).epoch == 1
        except ValueError as error:
            assert CHECKPOINT in str(error)  # noqa: PT017 - most raise, a few do not
    assert same < 8  # blanks at the end of the header


def test_two_damaged_ones_are_both_named_and_left(tmp_path: Path) -> None:
    run(tmp_path, epochs=2)
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"nothing")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"{CHECKPOINT}' .*; .*{PREVIOUS}' "):
        run(tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_a_good_one_of_another_run_is_not_gone_back_from(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoint(epoch).save(tmp_path)
    before = contents(tmp_path)
    for other, words in (
        ({**RUN, "seed": 2}, "seed was 1 when the run started and is now 2"),
        ({**RUN, "objective": {}}, r"objective\.k was None when .* and is now 'absent'"),
        ({**RUN, "k": None}, "k was 'absent' when the run started and is now None"),
    ):
        with pytest.raises(ValueError, match=words):
            Checkpoint.find(tmp_path, other, 99)
    assert contents(tmp_path) == before


def test_a_new_run_takes_the_old_ones_away(tmp_path: Path) -> None:
    run(tmp_path, epochs=3, seed=8)
    run(tmp_path, epochs=1)
    assert not (tmp_path / PREVIOUS).exists()
    remove(tmp_path)
    assert sorted(contents(tmp_path)) == [".lock", METRICS]


# Rows of metrics


def rows(n: int) -> list[dict[str, float]]:
    return [{"epoch": float(i), "loss": 1.5 / i} for i in range(1, n + 1)]


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_row_that_was_torn_by_a_kill_is_written_again(cut: int, tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    for row in rows(3):
        metrics.append(row)
    whole = (tmp_path / METRICS).read_bytes()
    (tmp_path / METRICS).write_bytes(whole[:-cut])
    resumed = Metrics(tmp_path, 2)
    assert resumed.rows == rows(2)
    resumed.append(rows(3)[2])
    assert (tmp_path / METRICS).read_bytes() == whole
    (tmp_path / METRICS).write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match=r"each of the 3 epochs .* had 2"):
        Metrics(tmp_path, 3)


@pytest.mark.parametrize(
    "text",
    ["epoch,loss\r\n1.0,x\r\n", "epoch,loss\r\n1.0\r\n", "epoch,loss\r\n2.0,1.5\r\n",
     "epoch,loss\r\n1.0,1.5,2.0\r\n", "loss\r\n1.0\r\n", "epoch,loss\r\n\xff1.0,1.5\r\n"],
)  # fmt: skip
def test_rows_that_are_damaged_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"epochs 1 to 1, '.*{METRICS}' is damaged"):
        Metrics(tmp_path, 1)


# Two runs in one folder


def test_a_second_run_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, epochs=2)
    before = contents(tmp_path)
    with locked(tmp_path), monkeypatch.context() as patch:
        patch.setattr(sys.modules["ppl_vae.inference.training.fit"], "Trainer", no_trainer)
        for resume in (True, False):
            with pytest.raises(ValueError, match=r"out should be a folder that no other run is us"):
                run(tmp_path, resume=resume)
    assert contents(tmp_path) == before
    run(tmp_path, resume=True)


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    process = start_python(
        f"""
import time
from pathlib import Path
from ppl_vae.shared.training.checkpoints import locked
with locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match="no other run is using"), locked(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with locked(tmp_path), locked(None), locked(tmp_path / "other"):
        pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        pass
    assert "is not locked (No locks available)" in caplog.text


# State of a checkpoint that does not fit the run


FLOAT, LONG = np.float32, np.int64
MISFITS: dict[str, tuple[str, np.ndarray | None, str]] = {
    "moment": (
        "optimizer.0.exp_avg",
        np.zeros(1, FLOAT),
        r"optimizer, of another shape: ..exp_avg",
    ),
    "step": ("optimizer.0.step", np.zeros(9, FLOAT), r"optimizer, of another shape: ..step"),
    "index": ("optimizer.999.step", np.zeros((), FLOAT), "go on from"),
    "name": ("optimizer.x", np.zeros(1, FLOAT), "go on from"),
    "shape": ("model.decoder.logits.bias", np.zeros(2, FLOAT), "of another shape"),
    "kind": ("model.decoder.logits.bias", np.zeros(6, LONG), "of another kind of number"),
    "lost": ("optimizer.1.exp_avg_sq", None, r"this optimizer, missing: \['exp_avg_sq'\]"),
    "order": ("random.order", np.zeros(3, np.uint8), "go on from"),
    "absent": ("random.torch", None, "go on from"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_state_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    name, array, words = MISFITS[case]
    run(tmp_path, epochs=1)
    arrays, text = safetensors_file.read(tmp_path / CHECKPOINT)
    arrays.pop(name, None)
    if array is not None:
        arrays[name] = array
    safetensors_file.write(tmp_path / CHECKPOINT, arrays, text)
    with pytest.raises(ValueError, match=words):
        run(tmp_path, resume=True)


def test_numpys_random_state_is_not_read_beyond_its_end(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    arrays, text = safetensors_file.read(tmp_path / CHECKPOINT)
    text["extra"]["random"]["numpy"][2] = 10**6
    safetensors_file.write(tmp_path / CHECKPOINT, arrays, text)
    with pytest.raises(
        ValueError, match=r"numpy's random state should be in 0\.\.624, was 1000000"
    ):
        run(tmp_path, model=make(SEMI), resume=True)


# What is no file


def test_a_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path should be a file, was '.*', which is a folder"):
        safetensors_file.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe', which is not a regular file"):
        safetensors_file.read(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="nothing', which does not exist"):
        safetensors_file.read(tmp_path / "nothing")
