"""Reuse of freed memory by the next training step."""

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Options of glibc's `mallopt`, from its malloc.h."""
MAX_SIZE = 2**31 - 1
MMAP_SIZES = (MAX_SIZE, 32 * 2**20)
"""Thresholds to try; older versions of glibc refuse more than the second."""


def retain_freed_memory() -> None:
    """Tell glibc's allocator not to return freed memory to the operating system.

    By default it returns arrays of megabytes immediately, and a step spends up to half of its time
    on pages that the system clears again (IWAE with K = 50: 36 ms instead of 22). With this
    setting, which applies to the whole process, memory use remains at its peak. Does nothing with
    another allocator, or if the environment sets MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_.
    """
    configured = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if configured or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(MMAP_THRESHOLD, size) for size in MMAP_SIZES):
        mallopt(TRIM_THRESHOLD, MAX_SIZE)
