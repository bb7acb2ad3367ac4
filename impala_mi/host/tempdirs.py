"""Temporary folders that are removed even if the process that made them was killed."""

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


def tempdir(kind: str) -> tempfile.TemporaryDirectory[str]:
    """Make a folder for one game; the first call in a process removes the folders of killed processes."""
    _sweep_once()
    prefix = f"impala-mi-{kind}-{_pid_namespace()}-{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def sweep() -> None:
    """Remove the folders of processes that no longer exist."""
    pattern = re.compile(rf"impala-mi-[a-z]+-{_pid_namespace()}-(\d+)-[^-]+")
    for folder in Path(tempfile.gettempdir()).iterdir():
        match = pattern.fullmatch(folder.name)
        if match and not psutil.pid_exists(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


_sweep_once = functools.cache(sweep)


@functools.cache
def _pid_namespace() -> str:
    """Hash of the host and the PID namespace: containers and machines may share the folder but not process ids."""
    namespace = 0
    with suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"
