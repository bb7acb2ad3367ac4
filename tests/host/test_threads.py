"""Freed memory is kept and used again."""

import os
import platform
import subprocess
import sys

import pytest

from impala_mi.host.threads import KEEP_FREED_MEMORY

# Blocks of the size of a batch's frames as floats, in threads that are not the first to allocate.
PROGRAM = """
import resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
if "keep" in sys.argv:
    from impala_mi.host.threads import keep_freed_memory
    keep_freed_memory()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def use(megabytes):
    block = libc.malloc(megabytes << 20)
    ctypes.memset(block, 1, megabytes << 20)
    libc.free(ctypes.c_void_p(block))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with ThreadPoolExecutor(2) as pool:
    list(pool.map(use, [100, 100]))
    before = faults()
    for _ in range(5):
        list(pool.map(use, [40, 100]))
    print(faults() - before)
"""
PAGES_OF_A_BLOCK = (100 << 20) // 4096


def faults(*args: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's options are glibc's")
@pytest.mark.parametrize(("args", "environment"), [((), KEEP_FREED_MEMORY), (("keep",), {})])
def test_large_blocks_are_used_again_in_any_thread(args, environment):
    assert faults() > 5 * PAGES_OF_A_BLOCK, "without the setting, each block is fetched from the system"
    assert faults(*args, **environment) < 2 * PAGES_OF_A_BLOCK  # two threads at once may need one more block
