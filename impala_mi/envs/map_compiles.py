"""Turns at compiling DeepMind Lab's maps, which all runs of a user on a machine share.

A map takes 40 to 80 s of CPU time, and an engine compiles whenever it needs one. Here a compile waits for one of as
many turns as there are cores, and for a process that compiles the same map, which it then takes from the cache.

Turns and maps are locks on files (flock) in a folder of the user. The kernel releases the locks of a process that
dies, so there is nothing to clean up and no server. Machines that share a cache may compile the same map once each:
locks are unreliable on network file systems and absent from mounted buckets.
"""

import fcntl
import math
import os
import stat
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from impala_mi.envs.hang import beat
from impala_mi.envs.level_cache import LevelCache
from impala_mi.host.threads import cores

MAP_CPU_S = (40.0, 80.0)
"""CPU seconds of a map: least and most of most levels, measured with software of 2023 on one core."""
_POLL_S = 0.2
"""Seconds between two attempts to get a lock."""
MAX_WAIT_S = 1200.0
"""Seconds after which a compile starts without its turn, in case the run that holds it was suspended."""
_MAP_LOCKS = 1024
"""Number of locks that stand for maps; two maps with the same lock are compiled one after the other."""


def compile_s(maps: int, at_once: int) -> tuple[float, float]:
    """Least and most seconds that maps take of which some number is compiled at once, each on a core of its own."""
    rounds = math.ceil(maps / at_once)
    return rounds * MAP_CPU_S[0], rounds * MAP_CPU_S[1]


def locks_folder() -> Path:
    """Folder of the locks of this user on this machine, in the folder for temporary files; it need not exist."""
    return Path(tempfile.gettempdir()) / f".impala-mi-maps-{os.getuid()}"


class MapCompiles:
    """A level cache for DeepMind Lab that also decides when a map is compiled.

    `fetch` returns False once this process may compile; `write` or `release` ends its turn. Without the folder, or
    where files cannot be locked, maps are compiled at once.

    Args:
        cache: the cache of compiled maps, or None.
        locks: folder of the locks, of which this user must be the owner; created if missing.
        folder: the game's own folder, in which `hang.beat` tells that the game waits.
    """

    def __init__(self, cache: LevelCache | None, locks: Path, folder: Path) -> None:
        self._cache, self._locks, self._folder = cache, locks, folder
        self._held: list[int] = []

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copy a map to `pk3_path` and return True, or wait for a turn to compile it and return False."""
        self.release()  # the compile before failed
        if self._cache is not None and self._cache.load(key, pk3_path):
            return self._count("cache_hits", True)
        deadline = time.monotonic() + MAX_WAIT_S
        if _own_folder(self._locks):
            if self._cache is not None:
                name = f"map-{zlib.crc32(key.encode()) % _MAP_LOCKS}"
                self._wait([name], deadline)
                if self._cache.load(key, pk3_path):  # another process has compiled it
                    self.release()
                    return self._count("cache_hits", True)
            self._wait([f"turn-{i}" for i in range(cores())], deadline)
        return self._count("cache_misses", False)

    def write(self, key: str, pk3_path: str) -> None:
        """Store the map that was compiled to `pk3_path` and end the turn."""
        if self._cache is not None:
            self._cache.write(key, pk3_path)
        self.release()

    def release(self) -> None:
        """End the turn, if this process has one."""
        while self._held:
            os.close(self._held.pop())

    def take_counts(self) -> dict[str, int]:
        """Counts of the cache since the last call; empty without a cache."""
        if self._cache is None:
            return {}
        counts, self._cache.counts = dict(self._cache.counts), Counter()
        return counts

    def _count(self, name: str, hit: bool) -> bool:
        if self._cache is not None:
            self._cache.counts[name] += 1
        return hit

    def _wait(self, names: Sequence[str], deadline: float) -> None:
        """Hold one of these locks; returns without any after the deadline, or where files cannot be locked."""
        try:
            lock = _first_free(self._locks, names)
            while lock is None and time.monotonic() < deadline:
                beat(self._folder)
                time.sleep(_POLL_S)
                lock = _first_free(self._locks, names)
        except OSError:
            return
        if lock is not None:
            self._held.append(lock)


def _first_free(folder: Path, names: Sequence[str]) -> int | None:
    """Descriptor of the first file that no process has locked, which is locked now; raises `OSError`."""
    for name in names:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor
    return None


def _own_folder(folder: Path) -> bool:
    """Whether a folder that nobody else may enter exists, or could be created."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
