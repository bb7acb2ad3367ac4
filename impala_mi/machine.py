"""What a process should know and do about the machine that it runs on."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_LARGEST = 2**31 - 1
MOST_THREADS = 8


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Of a process that computes in turn with others: half of the cores, `MOST_THREADS` at most."""
    return max(1, min(MOST_THREADS, cores() // 2))


def keep_freed_memory() -> None:
    """Have malloc keep large blocks that are freed instead of giving them back to the system.

    A batch's frames as floats are some 100 MB; fetched anew at every update, their pages cost more than the
    convolution of what is written to them. Threads share one arena: their own would give blocks of more than 64 MB
    back all the same. Does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # Older versions refuse more than the second value.
    if not mallopt(_M_MMAP_THRESHOLD, _LARGEST):
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    mallopt(_M_ARENA_MAX, 1)
