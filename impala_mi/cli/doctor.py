"""Command `impala-mi doctor`."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from impala_mi.cli.console import make_console
from impala_mi.cli.options import OVERRIDES
from impala_mi.config_suites import MACHINE_KEYS

SUITE_PACKAGES = {
    "doom": ("vizdoom", "cv2"),
    "babyai": ("minigrid",),
    "atari": ("ale_py",),
    "envpool": ("envpool",),
}
"""Packages of the optional suites."""

Row = Callable[..., None]


@click.command()
@OVERRIDES
def command(overrides: tuple[str, ...]) -> int:
    """Check this machine: cores, memory, shared memory, disk, GPUs, packages, suites and DeepMind Lab.

    KEY=VALUE arguments set env.dmlab.*, for example the folder of images. The exit code is 1 if training cannot
    run here.
    """
    import ctypes.util
    import importlib.util

    import psutil
    import torch

    from impala_mi.host.cgroups import memory_bytes, memory_free
    from impala_mi.host.threads import cores
    from impala_mi.runs.folder import MIN_DISK_BYTES, versions
    from impala_mi.training.preflight import MIB, SHARED_MEMORY

    table = Table(box=None, show_header=False)
    failed = False

    def row(good: bool | None, subject: str, finding: str, remedy: str = "") -> None:
        nonlocal failed
        failed |= good is False
        mark = {True: Text("ok", "green"), False: Text("bad", "red"), None: Text("-", "yellow")}[good]
        table.add_row(mark, subject, finding, "" if good else remedy)

    row(sys.version_info >= (3, 11), "Python", f"{sys.version.split()[0]} at {sys.executable}", "3.11 or newer")
    for package, version in versions().items():
        if package not in ("python", "platform") and version is not None:
            row(True, package, version)
    row(True, "cores", f"{cores()}, load {os.getloadavg()[0]:.1f}")
    memory = memory_bytes()
    available, own = psutil.virtual_memory().available, memory_free()
    available = available if own is None else min(available, own)
    free = f"{available // MIB:,} of {memory // MIB:,} MiB free"
    row(available > 2048 * MIB, "memory", free, "2 GiB at least")
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free
        row(shared > 256 * MIB, "shared memory", f"{shared // MIB:,} MiB free", "in Docker: --shm-size=2g")
    disk = shutil.disk_usage(".").free
    row(disk > MIN_DISK_BYTES, "disk here", f"{disk // MIB:,} MiB free", f"{MIN_DISK_BYTES // MIB} MiB at least")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            row(True, f"GPU {i}", torch.cuda.get_device_name(i))
    else:
        row(None, "GPU", "none that PyTorch sees; training runs on the CPU")
    for suite, packages in SUITE_PACKAGES.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        finding = f"{', '.join(missing)} not installed" if missing else "installed"
        row(None if missing else True, f"suite {suite}", finding, f"pip install 'impala-mi[{suite}]'")
    if importlib.util.find_spec("envpool") is not None:
        qt = ctypes.util.find_library("Qt5Gui")
        finding = "Qt 5 is not installed" if qt is None else "Qt 5 installed"
        row(None if qt is None else True, "Procgen of envpool", finding, "apt-get install libqt5gui5")
    _check_lab(overrides, row)
    make_console().print(table)
    return 1 if failed else 0


@contextlib.contextmanager
def _progress(work: str) -> Iterator[None]:
    """Show what is being done and for how long, on a terminal; elsewhere one line."""
    console = make_console()
    if not console.is_terminal:
        console.print(f"{work} ...")
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(work, total=None)
        yield


def _check_lab(overrides: tuple[str, ...], row: Row) -> None:
    """Check DeepMind Lab if it is installed: one frame, the images, the cache."""
    import importlib.util
    import time

    from impala_mi import config
    from impala_mi.envs.base import GameFault
    from impala_mi.envs.dmlab30 import dataset_problem
    from impala_mi.envs.suites import make_suite
    from impala_mi.errors import UserError, allow_only

    allow_only(overrides, MACHINE_KEYS)
    drawn, compiled = "rooms_watermaze", "explore_goal_locations_small"
    env = config.build("doctor", {"env": {"suite": "dmlab30", "levels": [drawn, compiled]}}, overrides).env
    if importlib.util.find_spec("deepmind_lab") is None:
        row(None, "suite dmlab30", "deepmind_lab not installed", "docs/dmlab.md")
        return
    suite = make_suite(env)
    try:
        suite.check()
        cache = env.dmlab.level_cache
        row(None if cache is None else True, "level cache", cache or "off: every map is compiled each time")
    except UserError as e:
        row(False, "level cache", str(e))
    uncached = env.dmlab.model_copy(update={"level_cache": None})
    suite = make_suite(env.model_copy(update={"dmlab": uncached}))
    for level, action in ((drawn, "draws"), (compiled, "compiles a map")):
        game = suite.make_game(level)
        started = time.monotonic()
        try:
            with _progress(f"DMLab {action}" + (", for about a minute" if level == compiled else "")):
                frame = game.reset(1).frame
            finding = f"{action}: {frame.shape[1]}x{frame.shape[0]}, {time.monotonic() - started:.1f} s"
            remedy = "the frame is black: try the other renderer"
            row(bool(frame.any()), f"DMLab {env.dmlab.renderer}", finding, remedy)
        except GameFault as e:
            row(False, f"DMLab {action}", f"{e}\n{e.output}".strip(), "docs/dmlab.md; maps need zip and bash")
        finally:
            game.close()
    if env.dmlab.dataset_path is None:
        row(None, "images", "env.dmlab.dataset_path is not set; two psychlab levels need it", "docs/dmlab.md")
    else:
        problem = dataset_problem(env.dmlab.dataset_path)
        row(problem is None, "images", problem or env.dmlab.dataset_path, "docs/dmlab.md")
