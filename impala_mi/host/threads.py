"""Cores, threads and malloc settings of this process."""

import ctypes
import math
import os

from impala_mi.host.cgroups import cpu_quota

_LARGEST = 2**31 - 1
_MALLOC = {"ARENA_MAX": (-8, 1), "MMAP_MAX_": (-4, 0), "TRIM_THRESHOLD_": (-1, _LARGEST)}
"""Options that make glibc keep freed memory, by their numbers in malloc.h: one arena (others hold no block above
64 MB), no block with pages of its own, and nothing returned to the system."""
KEEP_FREED_MEMORY = {f"MALLOC_{name}": str(value) for name, (_, value) in _MALLOC.items()}
"""Environment variables with which a process keeps freed memory from its start."""
MAX_DEFAULT_THREADS = 8


def cores() -> int:
    """Number of cores that this process may use: those it may run on, or fewer if its control group has a quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return available if quota is None else min(available, math.ceil(quota))


def default_threads() -> int:
    """Threads of a process that takes turns with others: half of the cores, at most `MAX_DEFAULT_THREADS`."""
    return max(1, min(MAX_DEFAULT_THREADS, cores() // 2))


def keep_freed_memory() -> None:
    """Make malloc keep freed memory instead of returning it to the system.

    The frames of a batch take some 100 MB as floats. If every update fetched that memory anew, its page faults
    would cost more than the convolution that reads it. A process whose threads have already allocated needs
    `KEEP_FREED_MEMORY` instead. Does nothing if the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in _MALLOC.values():
        mallopt(option, value)
