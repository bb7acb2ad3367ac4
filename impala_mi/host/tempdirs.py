"""Temporary folders that never stay, however their process ended."""

import functools
import os
import re
import shutil
import socket
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import psutil


def scratch(what: str) -> tempfile.TemporaryDirectory[str]:
    """A new folder for one game; the first call of a process removes those of killed processes."""
    _sweep_once()
    prefix = f"impala-mi-{what}-{_here()}-{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def sweep() -> None:
    """Remove the folders whose process is no more."""
    mine = re.compile(rf"impala-mi-[a-z]+-{_here()}-(\d+)-[^-]+")
    for left in Path(tempfile.gettempdir()).iterdir():
        found = mine.fullmatch(left.name)
        if found and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(left, ignore_errors=True)


_sweep_once = functools.cache(sweep)


@functools.cache
def _here() -> str:
    """What gives a process number its meaning: containers and machines may share the folder, not the numbers."""
    namespace = 0
    with suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"
