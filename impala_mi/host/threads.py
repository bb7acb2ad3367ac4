"""What a process should know and do about the machine that it runs on."""

import ctypes
import os

_LARGEST = 2**31 - 1
_MALLOC = {"ARENA_MAX": (-8, 1), "MMAP_MAX_": (-4, 0), "TRIM_THRESHOLD_": (-1, _LARGEST)}
"""What keeps freed memory, with numbers from glibc's malloc.h: one arena (others hold no block of more than 64 MB),
no block with pages of its own, and nothing given back."""
KEEP_FREED_MEMORY = {f"MALLOC_{name}": str(value) for name, (_, value) in _MALLOC.items()}
"""The environment of a process that keeps freed memory from its start."""
MOST_THREADS = 8


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Of a process that computes in turn with others: half of the cores, `MOST_THREADS` at most."""
    return max(1, min(MOST_THREADS, cores() // 2))


def keep_freed_memory() -> None:
    """Have malloc keep what is freed instead of giving it back to the system.

    A batch's frames as floats are some 100 MB; fetched anew at every update, their pages cost more than the
    convolution of what is written to them. A process whose threads have allocated before needs `KEEP_FREED_MEMORY`
    instead. Does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in _MALLOC.values():
        mallopt(option, value)
