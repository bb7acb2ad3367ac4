"""Cache of DeepMind Lab's compiled maps in a folder that processes and machines share.

A map takes seconds to minutes to compile and milliseconds to copy. An entry is one file: a digest, then the map.
After a crash, on a full disk or on a mounted bucket, a reader gets either the whole map or a miss; a damaged entry
is removed and written again. `load` and `write` never raise, because an exception in a callback would end the
episode.

    FOLDER/ab/abcdef....map    the first two letters of the key's digest spread the entries over 256 folders
    FOLDER/tmp/                entries being written, renamed when complete
"""

import errno
import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from impala_mi.errors import UserError
from impala_mi.host.files import missing_folders, remove_if_empty

_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size
_STALE_S = 86_400.0
"""Age at which an unfinished entry is removed: more than a clock jumps by."""
_TOUCH_S = 3600.0
"""Shortest time between two updates of an entry's time of last use."""
_SCAN_SHARE = 0.02
"""Share of `max_bytes` that is written, on average, between two scans for eviction."""
_ATTEMPTS = 5
"""Attempts to store a map in a folder from which another process removes empty folders."""
MIN_FREE_BYTES = 2 * 2**30
"""Free disk space that the cache leaves for checkpoints and logs."""


class LevelCache:
    """The cache; `map_compiles` stands between it and DeepMind Lab.

    Args:
        folder: created if missing. max_bytes: bound of the size, checked now and then; the least recently used
        entries go first. None: no bound.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder, self._tmp, self._max_bytes = folder, folder / "tmp", max_bytes
        self._evicting: threading.Thread | None = None
        self.counts: Counter[str] = Counter()
        """cache_repairs (damaged entries removed), cache_failures (maps not stored)."""
        with suppress(OSError):
            self._tmp.mkdir(parents=True, exist_ok=True)
            self._remove_stale()

    def load(self, key: str, pk3_path: str) -> bool:
        """Copy a map to `pk3_path` and return True; return False and leave no file if it is missing or damaged."""
        entry = self._entry(key)
        try:
            content = entry.read_bytes()
        except OSError:
            return False
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _DIGEST(data).digest() != digest:
            self.counts["cache_repairs"] += 1
            with suppress(OSError):
                entry.unlink(missing_ok=True)
            return False
        try:
            Path(pk3_path).write_bytes(data)
        except OSError:  # the disk is full: a partial file must not be taken for a map
            with suppress(OSError):
                os.unlink(pk3_path)
            return False
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > _TOUCH_S:
                os.utime(entry)  # time of last use
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Store the map that was compiled to `pk3_path`; the engine removes that file after this call."""
        try:
            data = Path(pk3_path).read_bytes()
            self.store(key, data)
        except OSError:
            self.counts["cache_failures"] += 1
            return
        # The writers together scan once per 2 % of the bound, on average.
        if self._max_bytes is not None and random.random() < len(data) / (_SCAN_SHARE * self._max_bytes):
            self._start_eviction(self._max_bytes)

    def store(self, key: str, data: bytes) -> None:
        """Store a map; raises `OSError`."""
        for _ in range(_ATTEMPTS - 1):
            with suppress(FileNotFoundError):  # `check_folder` of another process has removed an empty folder
                return self._store(key, data)
        return self._store(key, data)

    def _store(self, key: str, data: bytes) -> None:
        self._tmp.mkdir(parents=True, exist_ok=True)
        if (free := _free_bytes(self._folder)) is not None and free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        handle, temporary = tempfile.mkstemp(dir=self._tmp)
        try:
            # No fsync: the digest detects an entry that a crash of the machine has damaged.
            with os.fdopen(handle, "wb") as file:
                file.write(_DIGEST(data).digest())
                file.write(data)
            with suppress(OSError):  # a mounted bucket may have no modes
                os.chmod(temporary, 0o644)  # other users may share the folder
            entry = self._entry(key)
            entry.parent.mkdir(exist_ok=True)
            os.replace(temporary, entry)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def forget(self, key: str) -> None:
        """Remove a map, and the folders of maps that are empty then."""
        entry = self._entry(key)
        entry.unlink(missing_ok=True)
        remove_if_empty((entry.parent, self._tmp))

    def _entry(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.map"

    def _remove_stale(self) -> None:
        """Remove the unfinished entries of killed writers."""
        for file in self._tmp.iterdir():
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > _STALE_S:
                    file.unlink()

    def _start_eviction(self, max_bytes: int) -> None:
        """Evict in a thread: a scan of a million files takes minutes, and the level waits for `write`."""
        if self._evicting is None or not self._evicting.is_alive():
            self._evicting = threading.Thread(target=self._evict, args=(max_bytes,), daemon=True)
            self._evicting.start()

    def _evict(self, max_bytes: int) -> None:
        """Remove the least recently used entries until the size is 90 % of the bound."""
        entries = []
        for path in self._folder.glob("??/*.map"):
            with suppress(OSError):  # another process may have removed it
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        size = sum(entry_bytes for _, entry_bytes, _ in entries)
        if size <= max_bytes:
            return
        for _, entry_bytes, path in sorted(entries):
            if size <= 0.9 * max_bytes:
                break
            with suppress(OSError):
                path.unlink()
            size -= entry_bytes


def _free_bytes(folder: Path) -> int | None:
    """Free disk space, or None if the file system does not report it, as some mounted buckets."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def check_folder(folder: Path) -> None:
    """Raise `UserError` if a map cannot be stored in this folder and read back."""

    def refusal(reason: object) -> UserError:
        return UserError(
            f"env.dmlab.level_cache={str(folder)!r}: {reason}; "
            "name another folder, or null to compile every map each time"
        )

    key = f"check {os.getpid()} {random.random()}"
    created: list[Path] = []
    try:
        created = missing_folders(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (free := _free_bytes(folder)) is not None and free < MIN_FREE_BYTES:
            reserved = MIN_FREE_BYTES // 2**20
            raise refusal(f"{free // 2**20} MiB free, and {reserved} MiB are reserved for other files")
        with tempfile.TemporaryDirectory() as temporary:
            cache, copy = LevelCache(folder), Path(temporary) / "copy"
            cache.store(key, key.encode())
            if not cache.load(key, str(copy)) or copy.read_bytes() != key.encode():
                raise refusal("a file written there cannot be read back")
            cache.forget(key)
    except OSError as e:
        raise refusal(f"cannot be written: {e.strerror or e}") from None
    finally:
        remove_if_empty(created)
