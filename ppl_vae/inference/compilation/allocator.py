"""Memory that a training step frees stays with the process, for the next step to use."""

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Options of glibc's `mallopt`, from its malloc.h."""
LARGEST = 2**31 - 1
LARGEST_MAPPED = (LARGEST, 32 * 2**20)
"""Older versions of glibc take no more than the second."""


def retain_freed_memory() -> None:
    """Tells glibc's allocator to hand freed memory out again and not back to the system.

    By default it returns arrays of megabytes at once, and a step spends up to half of its time on
    pages that the system clears anew (IWAE with K = 50: 36 ms instead of 22). The memory of a
    process stays at its peak instead. Of the whole process; nothing happens where another
    allocator is in use, or if the environment sets MALLOC_TRIM_THRESHOLD_ or
    MALLOC_MMAP_THRESHOLD_.
    """
    given = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if given or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_MAPPED):
        mallopt(TRIM_THRESHOLD, LARGEST)
