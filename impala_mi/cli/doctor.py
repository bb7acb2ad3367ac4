"""`impala-mi doctor`."""

import os
import shutil
import sys

import click
from rich.markup import escape
from rich.table import Table

from impala_mi.cli.console import make_console

SUITE_PACKAGES = {
    "doom": ("vizdoom", "cv2"),
    "babyai": ("minigrid",),
    "atari": ("ale_py",),
}


@click.command()
def command() -> int:
    """Check this machine: cores, memory, shared memory, disk, GPUs, packages and suites.

    Exits with 1 where training could not run.
    """
    import importlib.util

    import psutil
    import torch

    from impala_mi.preflight import MIB, SHARED_MEMORY
    from impala_mi.rundir import SMALLEST_DISK, versions

    table = Table(box=None, show_header=False)
    failed = False

    def row(good: bool | None, what: str, found: str, remedy: str = "") -> None:
        nonlocal failed
        failed |= good is False
        mark = {True: "[green]ok[/]", False: "[red]bad[/]", None: "[yellow]-[/]"}[good]
        table.add_row(mark, what, found, escape(remedy))

    row(
        sys.version_info >= (3, 11),
        "Python",
        f"{sys.version.split()[0]} at {sys.executable}",
        "3.11 or newer",
    )
    for package, version in versions().items():
        if package not in ("python", "platform") and version is not None:
            row(True, package, version)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    row(True, "cores", f"{cores}, load {os.getloadavg()[0]:.1f}")
    memory = psutil.virtual_memory()
    row(
        memory.available > 2048 * MIB,
        "memory",
        f"{memory.available // MIB:,} of {memory.total // MIB:,} MiB free",
        "2 GiB at least",
    )
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        row(free > 256 * MIB, "shared memory", f"{free // MIB:,} MiB free", "in Docker: --shm-size=2g")
    disk = shutil.disk_usage(".").free
    row(disk > SMALLEST_DISK, "disk here", f"{disk // MIB:,} MiB free", f"{SMALLEST_DISK // MIB} MiB at least")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            row(True, f"GPU {i}", torch.cuda.get_device_name(i))
    else:
        row(None, "GPU", "none that PyTorch sees; training runs on the CPU")
    for suite, packages in SUITE_PACKAGES.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        if missing:
            row(
                None,
                f"suite {suite}",
                f"{', '.join(missing)} not installed",
                f"pip install 'impala-mi[{suite}]'",
            )
        else:
            row(True, f"suite {suite}", "installed")
    make_console().print(table)
    return 1 if failed else 0
