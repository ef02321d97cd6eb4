"""Runs of `fit` under `torchrun`: process group, signals and restarts."""

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
"""Steps between checks for a signal, by type of device; each check synchronises with the device."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that `torchrun` sets."""
_restarted: list[bool] = []
"""Not empty if the job was restarted. `torchrun` counts the restarts of one machine only."""


def join(device: torch.device) -> Processes:
    """Join the processes that `torchrun` started; without `torchrun`, return a single process.

    An existing process group is used. Otherwise one is initialised, with NCCL on GPUs and gloo on
    CPUs, and destroyed when the process ends.

    Raises:
        ValueError: There are more processes on this machine than GPUs.
    """
    if not dist.is_available() or not (dist.is_initialized() or _is_one_of_several()):
        return Processes(0, 1, device)
    if device.type == "cuda":
        device = device if str(device) != "cuda" else _own_gpu()
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        store, rank, size = next(rendezvous("env://"))
        prefix: Any = dist.PrefixStore  # type: ignore[attr-defined]  # missing in torch's types
        fresh = prefix(_fresh_prefix(store, rank, size), store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size)
        atexit.register(_leave)
        used = rank == 0 and store.add("used", 1) > 1  # the store may outlive the processes
        if _maximum(int(used or is_restarted()), device) > 0:
            _restarted.append(True)
    if dist.get_rank() > 0:
        logging.getLogger("ppl_vae").setLevel(logging.ERROR)
    group: Any = dist.group.WORLD
    return Processes(dist.get_rank(), dist.get_world_size(), device, group.group_name)


def _fresh_prefix(store: Any, rank: int, size: int) -> str:
    """Agree on a new name with all processes.

    After a restart `torchrun` may keep the store, with the addresses of dead processes. Each
    process asks under a new name, so that it cannot read an old answer.
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


def _maximum(number: int, device: torch.device) -> int:
    """Return the maximum of a number over all processes."""
    maximum = torch.tensor(number, device=device)
    dist.all_reduce(maximum, dist.ReduceOp.MAX)
    return int(maximum)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_gpu() -> torch.device:
    """Return the GPU of this process, by its local rank."""
    number, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= n_gpus:
        raise ValueError(
            f"nproc-per-node should be at most the number of GPUs, {n_gpus}, was at least "
            f"{number + 1}: use --device cpu"
        )
    return torch.device("cuda", number)


def _is_one_of_several() -> bool:
    """Return whether `torchrun` has started this process and others."""
    return all(name in os.environ for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def is_restarted() -> bool:
    """Return whether `torchrun` has restarted this program after a process failed."""
    return bool(_restarted) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def find_checkpoint(
    out: Path | None, run: Mapping[str, Any], epochs: int, resume: bool
) -> Checkpoint | None:
    """Return the checkpoint to resume from, if `resume` is set or `torchrun` has restarted.

    A restarted program finds its own checkpoint, or that of another run, which is ignored unless
    `resume` is set.
    """
    if resume:
        return Checkpoint.find(out, run, epochs)
    if out is None or not is_restarted():
        return None
    try:
        return Checkpoint.find(out, run, epochs)
    except ValueError:
        return None


class SharedInterrupt(Interrupt):
    """An interrupt that stops all processes after the same step when one of them gets a signal.

    Reading `asked` communicates with the other processes: all must read it equally often.
    """

    def __init__(self, local: Interrupt, processes: Processes) -> None:
        self.local, self.processes = local, processes
        self.reads = 0
        self.signal: signal.Signals | None = None

    @property
    def asked(self) -> signal.Signals | None:  # type: ignore[override]  # read-only here
        every = CHECK_EVERY.get(self.processes.device.type, 1)
        self.reads += 1
        if self.signal is None and self.reads % every == 0:
            number = _maximum(int(self.local.asked or 0), self.processes.device)
            self.signal = signal.Signals(number) if number > 0 else None
        return self.signal

    def stop(self, line: str) -> NoReturn:
        if self.processes.is_rank_0:
            print(line, file=sys.stderr, flush=True)
        raise SystemExit(128 + (self.asked or signal.SIGINT))
