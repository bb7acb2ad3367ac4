"""Temporary folders that never stay, however their process ended."""

import functools
import os
import shutil
import tempfile
from pathlib import Path

import psutil


def scratch(what: str) -> tempfile.TemporaryDirectory[str]:
    """A new folder for one game; the first call of a process removes the folders of killed processes."""
    prefix = f"impala-mi-{what}-"
    folder = tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", ignore_cleanup_errors=True)
    sweep(Path(folder.name).parent, prefix)
    return folder


@functools.cache
def sweep(parent: Path, prefix: str) -> None:
    """Remove, once, the folders whose process is no more."""
    for left in parent.glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
