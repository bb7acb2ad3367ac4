"""Turns at compiling DeepMind Lab's maps, which all runs of a user on a machine share.

A map takes 40 to 80 s of CPU time, and an engine compiles whenever it needs one. Here a compile waits for one of as
many turns as there are cores, and for a process that compiles the same map, which it then takes from the cache.

Turns and maps are locks on files (flock) in a folder of the user. The kernel releases the locks of a process that
dies, so there is nothing to clean up and no server. A process that was suspended keeps its lock, which another lock
then stands in for, so that no queue, however long, is compiled all at once. Machines that share a cache may compile
the same map once each: locks are unreliable on network file systems and absent from mounted buckets.
"""

import fcntl
import itertools
import math
import os
import random
import stat
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from impala_mi.envs.hang import beat
from impala_mi.envs.level_cache import LevelCache
from impala_mi.host.threads import cores

MAP_CPU_S = (40.0, 80.0)
"""CPU seconds of a map: least and most of most levels, measured with software of 2023 on one core."""
_POLL_S = 0.2
"""Seconds between the first two attempts to get a lock."""
_MAX_POLL_S = 1.0
"""Most seconds between two attempts, which are reached after some."""
MAX_WAIT_S = 1200.0
"""Seconds without a sign of life after which the process that holds a lock counts as suspended."""
_MARK_BYTES = 24
"""Length of the time in a lock, with leading zeros."""
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
        self._counts: Counter[str] = Counter()

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copy a map to `pk3_path` and return True, or wait for a turn to compile it and return False."""
        self.release()  # the compile before failed
        if self._cache is not None and self._cache.load(key, pk3_path):
            return self._count("cache_hits", True)
        if _own_folder(self._locks):
            if self._cache is not None:
                name = f"map-{zlib.crc32(key.encode()) % _MAP_LOCKS}"
                self._wait([name])
                if self._cache.load(key, pk3_path):  # another process has compiled it
                    self.release()
                    return self._count("cache_hits", True)
            self._wait([f"turn-{i}" for i in range(cores())])
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
        """cache_hits, cache_misses and the cache's own counts since the last call; empty without a cache."""
        if self._cache is None:
            return {}
        counts = dict(self._counts + self._cache.counts)
        self._counts, self._cache.counts = Counter(), Counter()
        return counts

    def _count(self, name: str, hit: bool) -> bool:
        self._counts[name] += 1
        return hit

    def _wait(self, names: Sequence[str]) -> None:
        """Hold one of these locks, or one that stands in for it; returns without any where files cannot be locked.

        Locks that this process holds already are marked at each attempt: to wait in a queue is a sign of life.
        """
        start = random.randrange(len(names))  # not all processes try the same lock first
        names, queue, pause_s = [*names[start:], *names[:start]], _Queue(self._locks), _POLL_S
        try:
            while (lock := queue.take(names)) is None:
                beat(self._folder)
                for held in self._held:
                    _mark(held)
                time.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(1.5 * pause_s, _MAX_POLL_S)
        except OSError:
            return
        self._held.append(lock)


class _Queue:
    """One process's wait for a lock, with what it has seen of the processes that hold them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[bytes, float]] = {}
        """Newest mark of a lock that was held, and the time when it was seen first."""

    def take(self, names: Sequence[str]) -> int | None:
        """Descriptor of the first lock that is free, which is held now; raises `OSError`."""
        for name in names:
            for stand_in in itertools.count():
                lock, suspended = self._try(f"{name}-{stand_in}" if stand_in else name)
                if lock is not None:
                    return lock
                if not suspended:
                    break
        return None

    def _try(self, name: str) -> tuple[int | None, bool]:
        """Descriptor of a lock if it was free, and whether the process that holds it is suspended."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                return None, self._suspended(name, os.pread(descriptor, _MARK_BYTES, 0))
            finally:
                os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        _mark(descriptor)
        return descriptor, False

    def _suspended(self, name: str, mark: bytes) -> bool:
        """Whether the mark of a lock that is held is too old.

        It must be seen twice, because a process that has just got the lock may not have replaced the last one's
        mark. A mark that is no time counts from when it was seen first.
        """
        now = time.monotonic()
        seen, since = self._seen.get(name, (None, now))
        if seen != mark:
            self._seen[name] = mark, now
            return False
        with suppress(ValueError):
            marked = float(mark)
            since = marked if 0 <= marked <= now else since
        return now - since > MAX_WAIT_S


def _mark(descriptor: int) -> None:
    """Write the time into a lock that this process holds: seconds since the start of the machine."""
    with suppress(OSError):  # the disk is full
        os.pwrite(descriptor, f"{time.monotonic():0{_MARK_BYTES}.6f}".encode(), 0)  # replaces the last one whole


def _own_folder(folder: Path) -> bool:
    """Whether a folder that nobody else may enter exists, or could be created."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
