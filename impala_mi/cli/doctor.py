"""`impala-mi doctor`."""

import os
import shutil
import sys
from collections.abc import Callable

import click
from rich.markup import escape
from rich.table import Table

from impala_mi.cli.console import allow_only, make_console
from impala_mi.config import MACHINE_KEYS

SUITE_PACKAGES = {
    "doom": ("vizdoom", "cv2"),
    "babyai": ("minigrid",),
    "atari": ("ale_py",),
}


Row = Callable[..., None]


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(overrides: tuple[str, ...]) -> int:
    """Check this machine: cores, memory, shared memory, disk, GPUs, packages, suites and DeepMind Lab.

    Dotted KEY=VALUE arguments set env.dmlab.*, the folder of images for example. Exits with 1 where training could
    not run.
    """
    import importlib.util

    import psutil
    import torch

    from impala_mi.host.threads import cores
    from impala_mi.runs.folder import SMALLEST_DISK, versions
    from impala_mi.training.preflight import MIB, SHARED_MEMORY

    table = Table(box=None, show_header=False)
    failed = False

    def row(good: bool | None, what: str, found: str, remedy: str = "") -> None:
        nonlocal failed
        failed |= good is False
        mark = {True: "[green]ok[/]", False: "[red]bad[/]", None: "[yellow]-[/]"}[good]
        table.add_row(mark, what, escape(found), "" if good else escape(remedy))

    row(
        sys.version_info >= (3, 11),
        "Python",
        f"{sys.version.split()[0]} at {sys.executable}",
        "3.11 or newer",
    )
    for package, version in versions().items():
        if package not in ("python", "platform") and version is not None:
            row(True, package, version)
    row(True, "cores", f"{cores()}, load {os.getloadavg()[0]:.1f}")
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
    _check_lab(overrides, row)
    make_console().print(table)
    return 1 if failed else 0


def _check_lab(overrides: tuple[str, ...], row: Row) -> None:
    """DeepMind Lab, where it is installed: one frame, the images, the cache."""
    import importlib.util
    import time

    from impala_mi import config
    from impala_mi.envs.base import GameFault
    from impala_mi.envs.dmlab30 import dataset_problem
    from impala_mi.envs.suites import make_suite
    from impala_mi.errors import UserError

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
    with_no_cache = env.dmlab.model_copy(update={"level_cache": None})
    suite = make_suite(env.model_copy(update={"dmlab": with_no_cache}))
    for level, what in ((drawn, "draws"), (compiled, "compiles a map")):
        game = suite.make_game(level)
        began = time.monotonic()
        try:
            frame = game.reset(1).frame
            found = f"{what}: {frame.shape[1]}x{frame.shape[0]}, {time.monotonic() - began:.1f} s"
            row(
                bool(frame.any()),
                f"DMLab {env.dmlab.renderer}",
                found,
                "the frame is black: try the other renderer",
            )
        except GameFault as e:
            row(False, f"DMLab {what}", str(e), "docs/dmlab.md; maps need zip and bash")
        finally:
            game.close()
    if env.dmlab.dataset_path is None:
        row(None, "images", "env.dmlab.dataset_path is not set; two psychlab levels need it", "docs/dmlab.md")
    else:
        problem = dataset_problem(env.dmlab.dataset_path)
        row(problem is None, "images", problem or env.dmlab.dataset_path, "docs/dmlab.md")
