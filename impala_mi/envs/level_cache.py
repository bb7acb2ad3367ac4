"""Compiled maps of DeepMind Lab, shared by processes and machines through a folder.

A map takes seconds to minutes to compile and milliseconds to copy. An entry is one file, its content behind a
digest of it: whatever a crash, a full disk or a mounted bucket leaves of it, a reader gets the whole map or a miss,
and a damaged entry is removed and written anew. Nothing here raises while a level runs: an exception in a callback
would end its episode.

    FOLDER/ab/abcdef....map    two letters of the key's digest spread the entries over 256 folders
    FOLDER/tmp/                entries being written; renamed when whole
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

_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size
_STALE_S = 3600.0
_TOUCH_S = 3600.0
_SCAN_SHARE = 0.02
SPARED_BYTES = 2 * 2**30
"""Disk that maps leave for checkpoints and logs, which may lie on the same one."""


class LevelCache:
    """`fetch` and `write` as DeepMind Lab calls them.

    Args:
        folder: made where missing.
        max_bytes: entries longest unused are removed beyond this size, checked now and then; None for no bound.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder, self._aside, self._max_bytes = folder, folder / "tmp", max_bytes
        self._evicting: threading.Thread | None = None
        self.counts: Counter[str] = Counter()
        """cache_hits, cache_misses, cache_repairs (damaged entries removed), cache_failures (maps not stored)."""
        with suppress(OSError):
            self._aside.mkdir(parents=True, exist_ok=True)
            self._remove_stale()

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copy a map to `pk3_path`; False, and no file there, where there is none or a damaged one."""
        entry = self._entry(key)
        try:
            content = entry.read_bytes()
        except OSError:
            self.counts["cache_misses"] += 1
            return False
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _DIGEST(data).digest() != digest:
            self.counts["cache_repairs"] += 1
            self.counts["cache_misses"] += 1
            with suppress(OSError):
                entry.unlink(missing_ok=True)
            return False
        try:
            Path(pk3_path).write_bytes(data)
        except OSError:  # the disk of the temporary folder is full: what is there must not be taken for a map
            with suppress(OSError):
                os.unlink(pk3_path)
            self.counts["cache_misses"] += 1
            return False
        self.counts["cache_hits"] += 1
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > _TOUCH_S:
                os.utime(entry)  # when it was last of use
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Store the map that was compiled to `pk3_path`, which does not outlive this call."""
        try:
            data = Path(pk3_path).read_bytes()
            self.store(key, data)
        except OSError:
            self.counts["cache_failures"] += 1
            return
        # Every writer scans once in a while, so that all together do after 2 % of the bound.
        if self._max_bytes is not None and random.random() < len(data) / (_SCAN_SHARE * self._max_bytes):
            self._evict_aside(self._max_bytes)

    def store(self, key: str, data: bytes) -> None:
        """Store a map; raises `OSError`."""
        self._aside.mkdir(parents=True, exist_ok=True)
        if (free := _free(self._folder)) is not None and free < SPARED_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        handle, aside = tempfile.mkstemp(dir=self._aside)
        try:
            # No fsync: a machine that crashes may lose the entry or damage it, and the digest finds that out.
            with os.fdopen(handle, "wb") as file:
                file.write(_DIGEST(data).digest())
                file.write(data)
            with suppress(OSError):  # a mounted bucket may know no modes
                os.chmod(aside, 0o644)  # others may share the folder
            entry = self._entry(key)
            entry.parent.mkdir(exist_ok=True)
            os.replace(aside, entry)
        except OSError:
            with suppress(OSError):
                os.unlink(aside)
            raise

    def forget(self, key: str) -> None:
        """Remove a map."""
        self._entry(key).unlink(missing_ok=True)

    def _entry(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.map"

    def _remove_stale(self) -> None:
        """Remove what killed writers left half written."""
        for file in self._aside.iterdir():
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > _STALE_S:
                    file.unlink()

    def _evict_aside(self, max_bytes: int) -> None:
        """Evict in a thread: looking at a million files takes minutes, and a level waits for `write`."""
        if self._evicting is None or not self._evicting.is_alive():
            self._evicting = threading.Thread(target=self._evict, args=(max_bytes,), daemon=True)
            self._evicting.start()

    def _evict(self, max_bytes: int) -> None:
        """Remove entries, the longest unused first, down to 90 % of the bound."""
        entries = []
        for path in self._folder.glob("??/*.map"):
            with suppress(OSError):  # another process may evict as well
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        size = sum(s for _, s, _ in entries)
        if size <= max_bytes:
            return
        for _, bytes_, path in sorted(entries):
            if size <= 0.9 * max_bytes:
                break
            with suppress(OSError):
                path.unlink()
            size -= bytes_


def _free(folder: Path) -> int | None:
    """Bytes, or None where the file system does not tell, as some mounted buckets."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def check_folder(folder: Path) -> None:
    """Raise `UserError` where a map cannot be stored in this folder and read again."""

    def refuse(why: object) -> UserError:
        return UserError(
            f"env.dmlab.level_cache={str(folder)!r}: {why}; "
            "name another folder, or null to compile every map each time"
        )

    key = f"check {os.getpid()} {random.random()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (free := _free(folder)) is not None and free < SPARED_BYTES:
            raise refuse(f"{free // 2**20} MiB free, and {SPARED_BYTES // 2**20} are left alone for other files")
        with tempfile.TemporaryDirectory() as own:
            cache, wanted = LevelCache(folder), Path(own) / "wanted"
            cache.store(key, key.encode())
            if not cache.fetch(key, str(wanted)) or wanted.read_bytes() != key.encode():
                raise refuse("what is written there cannot be read again")
            cache.forget(key)
    except OSError as e:
        raise refuse(f"cannot be written: {e.strerror or e}") from None
