"""Runs of `fit` under `torchrun`: the group of processes, signals, restarts."""

import atexit
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ppl_vae.inference.distributed.processes import Processes
from ppl_vae.shared.training.checkpoints import Checkpoint
from ppl_vae.shared.training.interrupts import Interrupt

CHECK_EVERY = {"cuda": 50}
"""Steps between looks for a signal, by the type of device; to look is to wait for the device."""
STARTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` tells a process."""
_again: list[bool] = []
"""Not empty if there were processes of this job before; a machine counts its own restarts alone."""


def join(device: torch.device) -> Processes:
    """The processes that `torchrun` started, or this one alone.

    A group that the program has made before is used as it is. Else one is made, with NCCL on GPUs
    and gloo on CPUs, and kept until the process ends.

    Raises:
        ValueError: there are more processes on this machine than GPUs.
    """
    if not dist.is_available() or not (dist.is_initialized() or _is_one_of_several()):
        return Processes(0, 1, device)
    if device.type == "cuda":
        device = device if str(device) != "cuda" else _own_gpu()
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        store, rank, size = next(rendezvous("env://"))
        prefix: Any = dist.PrefixStore  # type: ignore[attr-defined]  # missing in torch's types
        fresh = prefix(_agreed(store, rank, size), store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size)
        atexit.register(_leave)
        used = rank == 0 and store.add("used", 1) > 1  # it outlives the processes
        if _largest(int(used or is_restarted()), device) > 0:
            _again.append(True)
    if dist.get_rank() > 0:
        logging.getLogger("ppl_vae").setLevel(logging.ERROR)
    group: Any = dist.group.WORLD
    return Processes(dist.get_rank(), dist.get_world_size(), device, group.group_name)


def _agreed(store: Any, rank: int, size: int) -> str:
    """A name that all processes know and none knew before.

    After a restart `torchrun` may keep the store, with the addresses of processes that are gone.
    Each process asks with a name of its own, so that no old answer is taken for one.
    """
    name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"ask/{rank}", name)
        answer: str = store.get(f"answer/{name}").decode()
        store.set(f"known/{answer}/{rank}", "")
        return answer
    waiting, since = set(range(1, size)), time.monotonic()
    while waiting:
        if time.monotonic() - since > store.timeout.total_seconds():
            raise TimeoutError(f"processes {sorted(waiting)} of {size} did not come")
        for other in sorted(waiting):
            if store.check([f"ask/{other}"]):
                store.set("answer/" + store.get(f"ask/{other}").decode(), name)
        waiting = {other for other in waiting if not store.check([f"known/{name}/{other}"])}
        time.sleep(0.01)
    return name


def _largest(number: int, device: torch.device) -> int:
    """The largest number that one of the processes has."""
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_gpu() -> torch.device:
    """The GPU of this process, by its number on its machine."""
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ValueError(
            f"nproc-per-node should be at most the number of GPUs, {there}, was at least "
            f"{number + 1}: use --device cpu"
        )
    return torch.device("cuda", number)


def _is_one_of_several() -> bool:
    """Whether `torchrun` has started this process and others."""
    return all(name in os.environ for name in STARTED) and int(os.environ["WORLD_SIZE"]) > 1


def is_restarted() -> bool:
    """Whether `torchrun` has started this program anew, because a process has failed."""
    return bool(_again) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def find_checkpoint(
    out: Path | None, run: Mapping[str, Any], epochs: int, resume: bool
) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one; asked for, or because `torchrun` restarted.

    A program that `torchrun` has started anew finds what it did before, and it may find the run of
    another program, which it was going to replace.
    """
    if resume:
        return Checkpoint.find(out, run, epochs)
    if out is None or not is_restarted():
        return None
    try:
        return Checkpoint.find(out, run, epochs)
    except ValueError:
        return None


class Together(Interrupt):
    """A signal to one of the processes is a request to all, which they find at the same place.

    To ask for it is to ask all processes, and all have to.
    """

    def __init__(self, own: Interrupt, processes: Processes) -> None:
        self.own, self.processes = own, processes
        self.looks = 0
        self.found: signal.Signals | None = None

    @property
    def asked(self) -> signal.Signals | None:  # type: ignore[override]  # which others only read
        every = CHECK_EVERY.get(self.processes.device.type, 1)
        self.looks += 1
        if self.found is None and self.looks % every == 0:
            number = _largest(int(self.own.asked or 0), self.processes.device)
            self.found = signal.Signals(number) if number > 0 else None
        return self.found

    def stop(self, line: str) -> NoReturn:
        if self.processes.first:
            print(line, file=sys.stderr, flush=True)
        raise SystemExit(128 + (self.asked or signal.SIGINT))
