"""Limits that control groups of Linux set for this process, as in containers and batch systems: cores and memory.

Version 2 (`cpu.max`, `memory.max`) and version 1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`). A limit of any
group above the process's own holds too.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

_UNLIMITED_BYTES = 2**60
"""Limits from here on are none: version 1 writes the largest number of pages."""
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files of a group's limit and use of memory, of version 2 and version 1."""


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Number of cores whose time this process may use, or None if it is not limited."""
    quotas = []
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(float(quota) / float(period))  # "max" is no number
        with suppress(OSError, ValueError):
            micros = int((group / "cpu.cfs_quota_us").read_text())
            quotas.append(micros / int((group / "cpu.cfs_period_us").read_text()))  # -1: no limit
    return min((quota for quota in quotas if quota > 0), default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process and those of its groups may use, or None if they are not limited."""
    return min((limit for limit, _ in _memory_limits(root)), default=None)


def memory_free(root: Path = Path("/")) -> int | None:
    """Bytes that the limits of this process's groups still leave, or None if they are not limited."""
    return min((limit - used for limit, used in _memory_limits(root)), default=None)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of each group of this process whose memory is limited."""
    for group in _groups(root, "memory"):
        for limit_file, use_file in _MEMORY_FILES:
            with suppress(OSError, ValueError):
                limit = int((group / limit_file).read_text())
                if 0 < limit < _UNLIMITED_BYTES:
                    used = 0
                    with suppress(OSError, ValueError):
                        used = int((group / use_file).read_text())
                    yield limit, used


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less if its control group has a limit."""
    total = int(psutil.virtual_memory().total)
    limit = memory_limit()
    return total if limit is None else min(total, limit)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups of this process that may limit a controller's resource, those above them included.

    Args:
        root: root of the file system.
        controller: cpu or memory.
    """
    with suppress(OSError, ValueError):
        mounts = list(_mounts(root))
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for kind, options, mounted, point in mounts:
                v2 = kind == "cgroup2" and not controllers
                if v2 or (kind == "cgroup" and controller in controllers.split(",") and controller in options):
                    own = PurePosixPath(path)
                    # In a container the mount may show the container's group at its top, under the host's path.
                    inside = own.relative_to(mounted) if own.is_relative_to(mounted) else PurePosixPath()
                    folder = root / point.lstrip("/")
                    yield folder
                    for part in inside.parts:
                        if part != "/":
                            folder /= part
                            yield folder


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, str]]:
    """Mounts of control groups: kind, options, the group that is mounted, and where (proc_pid_mountinfo(5))."""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = ([*rest.split(), "", "", ""])[:3]
        if kind.startswith("cgroup"):
            _, _, _, mounted, point, *_ = fields.split()
            yield kind, options.split(","), mounted, point
